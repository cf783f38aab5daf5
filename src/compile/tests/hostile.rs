//! Policies that are written to hurt stay within memory in proportion to what they say, or are
//! refused; and they answer right.

use super::*;
use crate::compile::sample::worst;

/// Bytes of tables for one rule, at most: of shapes whose rules are independent of each other.
const BYTES_PER_RULE: usize = 400;
/// And where every address is in as many classes as there are lengths of prefixes: classes have 16
/// keys, and the rules of the other peers are merged, so each is there up to 128 times.
const BYTES_PER_NESTED_RULE: usize = 16_000;

fn holds(policy: &Policy, bytes_per_rule: usize) {
    let snapshot = Compiler::new()
        .compile(policy, &["link"], Generation(1))
        .unwrap();
    let stats = snapshot.stats();
    let limit = 100_000 + stats.rules * bytes_per_rule;
    assert!(stats.bytes < limit, "{stats:?}");
    let mut random = sample::Random::new(3);
    let rules = &policy.groups[0].ingress;
    for round in 0..200 {
        let rule = random.pick(rules);
        let mut remote = match rule.peer {
            Peer::Cidr4(net) => Address::V4(net.broadcast().to_bits()),
            Peer::Cidr6(net) => Address::V6(net.broadcast().to_bits()),
            _ => Address::V4(0),
        };
        let (mut service, protocol) = match rule.service {
            Service::Tcp(ports) => (ports.to, 6),
            Service::Udp(ports) => (ports.from, 17),
            _ => (0, 6),
        };
        if round % 4 == 0 {
            service = service.wrapping_add(1);
        }
        if round % 5 == 0 {
            remote = Address::V4(0x0a00_0001);
        }
        let question = Question {
            remote,
            protocol,
            service,
        };
        agree(policy, &snapshot, 0, Direction::Ingress, &question).unwrap();
    }
}

#[test]
fn a_rule_for_every_port() {
    holds(&worst::every_port(), BYTES_PER_RULE);
}

#[test]
fn ranges_of_ports_that_all_overlap() {
    holds(&worst::overlapping(20_000), BYTES_PER_RULE);
}

#[test]
fn rules_that_have_nothing_in_common() {
    holds(&worst::all_distinct(30_000), BYTES_PER_RULE);
}

#[test]
fn nested_prefixes_and_ports_as_filters_of_routers_have_them() {
    holds(&worst::class_bench(20_000, 5), BYTES_PER_RULE);
}

#[test]
fn prefixes_of_every_length_around_an_address() {
    holds(&worst::deepest(4, 8), BYTES_PER_NESTED_RULE);
}

#[test]
fn a_group_of_many_members_that_many_groups_name() {
    let policy = worst::popular_group(5_000, 500);
    let snapshot = Compiler::new()
        .compile(&policy, &["link"], Generation(1))
        .unwrap();
    // Members by groups would be 2,500,000 of anything.
    assert!(snapshot.stats().bytes < 5_000_000, "{:?}", snapshot.stats());
    let question = Question {
        remote: Address::V4(0x0a00_0000 + 4_999),
        protocol: 6,
        service: 5432,
    };
    agree(&policy, &snapshot, 5_250, Direction::Ingress, &question).unwrap();
}

#[test]
fn sets_with_a_large_group_share_its_program() {
    let mut policy = worst::class_bench(5_000, 5);
    let alone = Compiler::new()
        .compile(&policy, &["link"], Generation(1))
        .unwrap();
    let other = worst::popular_group(0, 200);
    policy.groups.extend_from_slice(&other.groups[1..]);
    for (group, made) in (1..).zip(&other.interfaces) {
        let mut made = (**made).clone();
        made.groups = vec![GroupIndex(0), GroupIndex(group)];
        made.id = InterfaceId(format!("eni-more-{group}").into());
        made.addresses = vec![semantics::v4_host(0x0b00_0000 + group)];
        policy.interfaces.push(Arc::new(made));
    }
    let all = Compiler::new()
        .compile(&policy, &["link"], Generation(1))
        .unwrap();
    assert!(
        all.stats().bytes < 2 * alone.stats().bytes,
        "{:?}",
        all.stats()
    );
}

/// Slots are bounded by what is there at a time, however much comes and goes.
#[test]
fn slots_do_not_grow_with_churn() {
    let mut policy = worst::all_distinct(50);
    let mut compiler = Compiler::new();
    for round in 1..500_u32 {
        let group = Arc::make_mut(&mut policy.groups[0]);
        group.ingress.rotate_left(1);
        group.ingress[0].id = RuleId(format!("sgr-round-{round}").into());
        let interface = Arc::make_mut(&mut policy.interfaces[0]);
        interface.id = InterfaceId(format!("eni-round-{round}").into());
        let generation = Generation(u64::from(round));
        let snapshot = compiler.compile(&policy, &["link"], generation).unwrap();
        assert!(snapshot.rules().all(|rule| rule.slot.0 < 60));
        assert!(snapshot.interfaces().all(|(_, info)| info.slot.0 < 12));
        if round % 8 == 0 {
            let left = compiler.left_slots(generation);
            compiler.release(&left);
        }
    }
}

/// The bound is on what the policy in force takes; the next one is refused, and forgotten.
#[test]
fn each_is_refused_where_it_takes_more_than_it_may_and_leaves_no_trace() {
    let policies = [
        (worst::every_port(), Part::Names),
        (worst::overlapping(5_000), Part::Names),
        (worst::all_distinct(5_000), Part::Addresses),
        (worst::class_bench(5_000, 5), Part::Names),
        (worst::deepest(1, 4), Part::Addresses),
        (worst::deepest(6, 1), Part::Addresses),
        (worst::long_list(20_000, 5), Part::Addresses),
        (worst::popular_group(2_000, 200), Part::Names),
    ];
    let good = worst::all_distinct(20);
    for (policy, expected) in policies {
        let whole = Compiler::new().compile(&policy, &["link"], Generation(1));
        let limit = whole.unwrap().stats().bytes * 9 / 10;
        let mut compiler = Compiler::with_bytes(limit);
        let before = compiler.compile(&good, &["link"], Generation(1)).unwrap();
        let refused = compiler.compile(&policy, &["link"], Generation(2));
        let most = match refused.unwrap_err() {
            CompileError::TooLarge { limit: told, most } if told == limit => most,
            other => panic!("{other}"),
        };
        assert_eq!(most, expected, "{} rules", policy.count().rules);
        let after = compiler.compile(&good, &["link"], Generation(2)).unwrap();
        assert_eq!(before.stats(), after.stats());
    }
}

/// A change that is refused late, after most of it was made, is as if it had not been tried.
#[test]
fn two_owners_of_an_address_are_refused_and_leave_no_trace() {
    let good = worst::class_bench(200, 5);
    let mut compiler = Compiler::new();
    let before = compiler.compile(&good, &["link"], Generation(1)).unwrap();
    let mut bad = worst::class_bench(300, 6);
    let mut twin = (*bad.interfaces[0]).clone();
    twin.id = InterfaceId("eni-twin".into());
    bad.interfaces.push(Arc::new(twin));
    let refused = compiler
        .compile(&bad, &["link"], Generation(2))
        .unwrap_err();
    assert!(matches!(refused, CompileError::DuplicateAddress { .. }));
    let after = compiler.compile(&good, &["link"], Generation(2)).unwrap();
    let slots = |snapshot: &Snapshot| -> Vec<_> {
        snapshot
            .rules()
            .map(|rule| (rule.slot, rule.id.clone()))
            .collect()
    };
    assert_eq!(slots(&before), slots(&after));
    assert!(compiler.left_slots(Generation(9)).rules.is_empty());
}
