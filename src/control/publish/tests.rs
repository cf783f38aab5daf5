//! Publication, changes that wait, and the way back.

use super::*;
use crate::policy;
use crate::snapshot::SnapshotReader;

fn parse(port: u16) -> Policy {
    policy::of_text(&format!(
        "[security_groups.web]\ndescription = \"web\"\n\
         ingress = [{{ protocol = \"tcp\", ports = {port}, from = [\"10.0.0.0/8\"] }}]\n\
         [interfaces.a]\naddresses = [\"10.0.1.10\"]\ngroups = [\"web\"]\n"
    ))
}

/// A state in generation 1, and two workers that never took it up.
fn state() -> (PolicyState, Vec<SnapshotReader>, MonotonicClock) {
    let clock = MonotonicClock::start();
    let links = vec!["uplink".to_owned()];
    let (compiler, snapshot, time) =
        PolicyState::compile_first(&parse(80), &links, &clock).unwrap();
    let (publisher, readers) = Publisher::new(Arc::new(snapshot), 2);
    let state = PolicyState::new(parse(80), compiler, publisher, links, time);
    (state, readers, clock)
}

fn put(state: &PolicyState, port: u16, clock: &MonotonicClock) -> Result<Published, PublishError> {
    let origin = Origin::Apply("policy.toml".to_owned());
    state.publish(parse(port), origin, Intent::Change, NONE_SWEPT, clock)
}

fn stage(
    state: &PolicyState,
    port: u16,
    within: Duration,
    clock: &MonotonicClock,
) -> Result<Published, PublishError> {
    let origin = Origin::Apply("policy.toml".to_owned());
    state.publish(
        parse(port),
        origin,
        Intent::Stage(within, None),
        NONE_SWEPT,
        clock,
    )
}

const NONE_SWEPT: Generation = Generation(0);
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn nothing_but_a_decision_comes_while_a_change_waits() {
    let (state, _readers, clock) = state();
    stage(&state, 81, LONG, &clock).unwrap();
    for refused in [put(&state, 82, &clock), stage(&state, 82, LONG, &clock)] {
        let text = refused.unwrap_err().to_string();
        assert!(
            text.starts_with("generation 2 waits to be confirmed"),
            "{text}"
        );
    }
    let edited = state.edit(NONE_SWEPT, &clock, |_| panic!("nobody asks"));
    assert!(matches!(edited, Err(PublishError::Waits { .. })));
    assert!(
        state.expire(NONE_SWEPT, &clock).unwrap().is_none(),
        "it has time yet"
    );
    assert_eq!(state.confirm(&clock).unwrap().generation, Generation(2));
    assert_eq!(state.confirm(&clock).unwrap_err(), ConfirmError::Nothing);
    assert_eq!(put(&state, 82, &clock).unwrap().generation, Generation(3));
}

#[test]
fn a_change_that_is_not_confirmed_goes_back() {
    let (state, _readers, clock) = state();
    stage(&state, 81, Duration::ZERO, &clock).unwrap();
    assert_eq!(
        state.confirm(&clock).unwrap_err(),
        ConfirmError::Late(Generation(2))
    );
    let (published, pending) = state.expire(NONE_SWEPT, &clock).unwrap().unwrap();
    assert_eq!(published.generation, Generation(3));
    assert_eq!(pending.before_generation, Generation(1));
    assert_eq!(*state.policy(), parse(80));
    assert_eq!(state.deadline(), None);
    assert_eq!(
        state.versions()[0].origin,
        Origin::AutoRollback(Generation(1))
    );
    assert!(state.expire(NONE_SWEPT, &clock).unwrap().is_none());
}

#[test]
fn the_file_ends_the_wait_whatever_it_says() {
    for port in [80, 81, 82] {
        let (state, _readers, clock) = state();
        stage(&state, 81, LONG, &clock).unwrap();
        let origin = Origin::File;
        let published = state.publish(parse(port), origin, Intent::Settle, NONE_SWEPT, &clock);
        assert_eq!(published.unwrap().unchanged, port == 81);
        assert_eq!(*state.policy(), parse(port));
        assert_eq!(state.deadline(), None);
    }
}

#[test]
fn to_roll_back_is_a_new_generation_and_can_be_undone() {
    let (state, _readers, clock) = state();
    let back = |to: Option<u64>| state.roll_back(to.map(Generation), NONE_SWEPT, &clock);
    assert_eq!(back(None).unwrap_err(), RollbackError::First);
    put(&state, 81, &clock).unwrap();
    put(&state, 82, &clock).unwrap();
    let (published, to) = back(None).unwrap();
    assert_eq!((published.generation, to), (Generation(4), Generation(2)));
    assert_eq!(*state.policy(), parse(81));
    back(None).unwrap();
    assert_eq!(*state.policy(), parse(82), "and forth");
    back(Some(1)).unwrap();
    assert_eq!(*state.policy(), parse(80));
    assert!(back(Some(6)).unwrap().0.unchanged, "in force");
    assert_eq!(
        back(Some(9)).unwrap_err().to_string(),
        "generation 9 is not kept; there are 6, 5, 4, 3, 2, 1"
    );
    stage(&state, 83, LONG, &clock).unwrap();
    let (_, to) = back(None).unwrap();
    assert_eq!((to, state.deadline()), (Generation(6), None));
}

#[test]
fn a_late_worker_is_named_and_holds_up_nobody_else() {
    let (state, mut readers, clock) = state();
    readers[0].load();
    readers[1].load();
    let second = put(&state, 81, &clock).unwrap().generation;
    readers[0].load();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| state.wait_live(second, Duration::from_secs(60), &clock));
        let late = state.wait_live(second, Duration::ZERO, &clock).unwrap_err();
        assert_eq!(late.workers, [WorkerId(1)]);
        assert_eq!(
            late.to_string(),
            "generation 2 is published, but worker 1 has not taken it up within 0ns"
        );
        let view = state.view();
        assert_eq!(
            (view.generation, view.generations[1].1),
            (second, Generation(1))
        );
        let third = put(&state, 82, &clock).unwrap().generation;
        assert_eq!(third, Generation(3));
        readers[1].begin_sleep();
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn a_worker_that_wakes_is_waited_for_and_shown_as_up_to_date() {
    let (state, mut readers, clock) = state();
    readers[0].load();
    readers[1].begin_sleep();
    let second = put(&state, 81, &clock).unwrap().generation;
    readers[0].load();
    readers[1].end_sleep();
    let late = state.wait_live(second, Duration::ZERO, &clock).unwrap_err();
    assert_eq!(late.workers, [WorkerId(1)]);
    assert_eq!(state.view().generations[1], (WorkerId(1), second, false));
}

#[test]
fn a_change_is_live_though_a_later_one_is_not() {
    let (state, mut readers, clock) = state();
    readers[1].begin_sleep();
    readers[0].load();
    let second = put(&state, 81, &clock).unwrap().generation;
    readers[0].load();
    let third = put(&state, 82, &clock).unwrap().generation;
    assert_eq!(state.wait_live(second, Duration::ZERO, &clock), Ok(()));
    assert!(state.wait_live(third, Duration::ZERO, &clock).is_err());
}

#[test]
fn the_same_content_keeps_its_generation() {
    let (state, _readers, clock) = state();
    let published = put(&state, 80, &clock).unwrap();
    assert!(published.unchanged);
    assert_eq!(published.generation, Generation(1));
}

#[test]
fn what_is_saved_is_what_is_in_force() {
    let (state, _readers, clock) = state();
    let second = put(&state, 81, &clock).unwrap().generation;
    assert_eq!(state.while_in_force(second, || "saved"), Some("saved"));
    put(&state, 82, &clock).unwrap();
    assert_eq!(state.while_in_force(second, || "saved"), None);
}
