//! Changes of single rules, thousands a second: what is asked for while a change compiles goes
//! into the next publication, all of it at once.
//!
//! Whoever has the turn takes everything that waits, and makes and publishes it; the others find
//! their answers when they get the turn. A change that is refused takes no other with it: each is
//! checked alone, and where the compiler refuses many, each half is tried by itself.

use std::collections::VecDeque;
use std::sync::Mutex;

use crossbeam::channel::{Sender, bounded};
use tracing::info;

use super::answer::{full, refused};
use super::command::{Command, Refusal};
use super::publish::{PolicyState, PublishError, lock};
use super::version_commands::{RuleAddRequest, RuleRemoveRequest, RuleRow};
use super::versions::Origin;
use crate::clock::MonotonicClock;
use crate::document::{Problem, Source};
use crate::policy::{EditError, EditedRule, RuleEditor};
use crate::sync::Arc;
use crate::types::Generation;

/// What errors call the text of an entry.
const ENTRY_NAME: &str = "rule";

/// One change of rules.
#[derive(Clone, Debug)]
pub(super) enum RuleChange {
    Add(RuleAddRequest),
    Remove(RuleRemoveRequest),
}

/// What became of one.
#[derive(Clone, Debug)]
pub(super) struct Edited {
    /// Where it is published.
    pub(super) generation: Generation,
    pub(super) rules: Vec<RuleRow>,
    pub(super) warnings: Vec<Problem>,
}

/// Rules that came or went, and warnings.
type Made = (Vec<RuleRow>, Vec<Problem>);

pub(super) type Outcome = Result<Edited, Refusal>;

/// What became of a publication: an outcome for each change.
type Attempt = Result<Vec<Outcome>, PublishError>;

/// Changes that wait for their turn.
#[derive(Default)]
pub(super) struct RuleChanges {
    waiting: Mutex<VecDeque<Waiting>>,
    /// Held by who has the turn. The editor knows the policy in force as long as nothing else was
    /// published.
    turn: Mutex<Option<RuleEditor>>,
}

struct Waiting {
    changes: Vec<RuleChange>,
    answer: Sender<Vec<Outcome>>,
}

impl RuleChange {
    /// The change that a command asks for; the command itself where it asks for none.
    pub(super) fn of(command: Command) -> Result<Self, Box<Command>> {
        match command {
            Command::RuleAdd(request) => Ok(Self::Add(request)),
            Command::RuleRemove(request) => Ok(Self::Remove(request)),
            other => Err(Box::new(other)),
        }
    }

    /// How long its caller waits until it is live, milliseconds.
    pub(super) fn timeout_ms(&self) -> u64 {
        match self {
            Self::Add(request) => request.timeout_ms,
            Self::Remove(request) => request.timeout_ms,
        }
    }
}

impl RuleChanges {
    /// Makes and publishes changes, in their order; an outcome for each.
    pub(super) fn make(
        &self,
        changes: Vec<RuleChange>,
        state: &PolicyState,
        swept: Generation,
        clock: &MonotonicClock,
    ) -> Vec<Outcome> {
        let (answer, mine) = bounded(1);
        lock(&self.waiting).push_back(Waiting { changes, answer });
        let mut editor = lock(&self.turn);
        if let Ok(outcomes) = mine.try_recv() {
            return outcomes;
        }
        // Mine is among them: only who has the turn takes.
        let batch = std::mem::take(&mut *lock(&self.waiting));
        let all: Vec<&RuleChange> = batch.iter().flat_map(|one| &one.changes).collect();
        let mut publish = |part: &[&RuleChange]| publish(&mut editor, part, state, swept, clock);
        let mut outcomes = publish_parts(&all, &mut publish).into_iter();
        for one in &batch {
            let own = outcomes.by_ref().take(one.changes.len()).collect();
            // There is room for one, and whoever asked waits for it.
            let _gone = one.answer.send(own);
        }
        drop(editor);
        mine.recv().unwrap_or_default()
    }
}

/// Publishes a batch; where the compiler refuses it, each half by itself, so that what cannot be
/// compiled takes nothing else with it.
fn publish_parts(
    batch: &[&RuleChange],
    publish: &mut dyn FnMut(&[&RuleChange]) -> Attempt,
) -> Vec<Outcome> {
    match publish(batch) {
        Ok(outcomes) => outcomes,
        // Depth: the logarithm of the batch.
        Err(PublishError::Compile(_)) if batch.len() > 1 => {
            let (first, second) = batch.split_at(batch.len() / 2);
            let mut outcomes = publish_parts(first, publish);
            outcomes.extend(publish_parts(second, publish));
            outcomes
        }
        Err(error) => {
            let text = format!("refused, the policy in force stays: {}", full(&error));
            vec![Err(Refusal::new(text)); batch.len()]
        }
    }
}

/// Publishes what can be made of a batch.
fn publish(
    editor: &mut Option<RuleEditor>,
    batch: &[&RuleChange],
    state: &PolicyState,
    swept: Generation,
    clock: &MonotonicClock,
) -> Attempt {
    let mut made: Vec<Result<Made, Refusal>> = Vec::with_capacity(batch.len());
    let (mut added, mut removed) = (0, 0);
    let published = state.edit(swept, clock, |in_force| {
        // Another policy was published since, or the last publication was refused.
        let known = editor.take_if(|editor| Arc::ptr_eq(editor.policy(), &in_force));
        let editor = editor.insert(known.unwrap_or_else(|| RuleEditor::new(in_force)));
        editor.allow_search();
        for change in batch {
            let edited = edit(editor, change);
            if let Ok((rules, _)) = &edited {
                match change {
                    RuleChange::Add(_) => added += rules.len(),
                    RuleChange::Remove(_) => removed += rules.len(),
                }
            }
            made.push(edited);
        }
        let policy = Arc::clone(editor.policy());
        (policy, Origin::Rules { added, removed })
    });
    let published = published.inspect_err(|_| {
        // What it holds was not published.
        *editor = None;
    })?;
    let generation = published.generation;
    if !published.unchanged {
        info!(%generation, added, removed, "rules changed");
    }
    let outcome = |(rules, warnings)| Edited {
        generation,
        rules,
        warnings,
    };
    Ok(made.into_iter().map(|one| one.map(outcome)).collect())
}

fn edit(editor: &mut RuleEditor, change: &RuleChange) -> Result<Made, Refusal> {
    let edited = match change {
        RuleChange::Add(request) => {
            let source = Source::new(ENTRY_NAME, request.entry.as_str());
            let added = editor.add(&request.group, request.direction, &source);
            added.map(|added| (added.rules, added.warnings))
        }
        RuleChange::Remove(request) if request.ids.is_empty() => {
            return Err(Refusal::new("no rule is named"));
        }
        RuleChange::Remove(request) => editor.remove(&request.ids).map(|rules| (rules, Vec::new())),
    };
    match edited {
        Ok((rules, warnings)) => Ok((rules.into_iter().map(row).collect(), warnings)),
        Err(EditError::Entry(report)) => Err(refused(&report)),
        Err(error) => Err(Refusal::new(format!(
            "refused, the policy in force stays: {error}"
        ))),
    }
}

fn row(rule: EditedRule) -> RuleRow {
    RuleRow {
        id: rule.id.to_string(),
        group: rule.group.into(),
        direction: rule.direction,
        rule: rule.text,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::compile::CompileError;
    use crate::policy::{self, KnownLinks};
    use crate::snapshot::Publisher;
    use crate::types::Direction;

    fn state() -> (PolicyState, MonotonicClock) {
        let clock = MonotonicClock::start();
        let text = "[security_groups.web]\ndescription = \"web\"\ningress = []\negress = []\n\
                    [interfaces.a]\naddresses = [\"10.0.1.10\"]\ngroups = [\"web\"]\n";
        let source = Source::new("policy.toml", text);
        let policy = policy::parse(&source, KnownLinks::Unknown).unwrap().value;
        let links = vec!["uplink".to_owned()];
        let (compiler, snapshot, time) =
            PolicyState::compile_first(&policy, &links, &clock).unwrap();
        let (publisher, _) = Publisher::new(Arc::new(snapshot), 0);
        let state = PolicyState::new(policy, compiler, publisher, links, time);
        (state, clock)
    }

    fn add(port: u16) -> RuleChange {
        RuleChange::Add(RuleAddRequest {
            group: "web".to_owned(),
            direction: Direction::Ingress,
            entry: format!("{{ protocol = \"tcp\", ports = {port}, from = \"10.0.0.0/8\" }}"),
            timeout_ms: 0,
        })
    }

    fn rules_of(state: &PolicyState) -> usize {
        state.policy().groups[0].ingress.len()
    }

    #[test]
    fn each_of_many_callers_has_its_own_answers() {
        let (state, clock) = state();
        let changes = RuleChanges::default();
        thread::scope(|scope| {
            for caller in 0..8 {
                let (changes, state, clock) = (&changes, &state, &clock);
                scope.spawn(move || {
                    for step in 0..10 {
                        let port = 100 * caller + step;
                        // The second is refused: the same again.
                        let batch = vec![add(port), add(port), add(5000 + port)];
                        let outcomes = changes.make(batch, state, Generation(0), clock);
                        assert!(outcomes[1].is_err() && outcomes.len() == 3);
                        let edited = outcomes[2].as_ref().unwrap();
                        let wanted = format!("tcp {}, 10.0.0.0/8", 5000 + port);
                        assert_eq!(edited.rules[0].rule, wanted);
                        let in_force = state.policy();
                        let mut rules = in_force.groups[0].ingress.iter();
                        assert!(rules.any(|rule| rule.id.as_str() == edited.rules[0].id));
                    }
                });
            }
        });
        assert_eq!(rules_of(&state), 160);
        let last = &state.versions()[0];
        assert_eq!(last.count, state.policy().count());
    }

    #[test]
    fn another_policy_in_between_is_built_upon() {
        let (state, clock) = state();
        let changes = RuleChanges::default();
        changes.make(vec![add(1)], &state, Generation(0), &clock);
        state.roll_back(None, Generation(0), &clock).unwrap();
        assert_eq!(rules_of(&state), 0);
        let outcomes = changes.make(vec![add(1), add(2)], &state, Generation(0), &clock);
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!(rules_of(&state), 2);
    }

    #[test]
    fn what_cannot_be_compiled_takes_nothing_else_with_it() {
        let changes: Vec<RuleChange> = (0..9).map(add).collect();
        let batch: Vec<&RuleChange> = changes.iter().collect();
        let bad = |change: &RuleChange| match change {
            RuleChange::Add(request) => request.entry.contains("= 6,"),
            RuleChange::Remove(_) => false,
        };
        let mut publications = 0;
        let outcomes = publish_parts(&batch, &mut |part| {
            if part.iter().any(|change| bad(change)) {
                return Err(CompileError::SlotsExhausted.into());
            }
            publications += 1;
            let edited = Edited {
                generation: Generation(publications),
                rules: Vec::new(),
                warnings: Vec::new(),
            };
            Ok(vec![Ok(edited); part.len()])
        });
        let good: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(
            good,
            [true, true, true, true, true, true, false, true, true]
        );
        assert!(publications <= 4);
    }
}
