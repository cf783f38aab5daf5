//! What `gateway.toml` may say, what is refused and where, and that the reference shows every key.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::document::{Checked, Report, Source};

/// A file with everything that is required, to which a test adds lines.
const MINIMAL: &str = "policy = \"policy.toml\"\n\
    [[link]]\nname = \"uplink\"\ninside = \"eth1\"\noutside = \"eth2\"\n";

/// Lines of [`MINIMAL`], so that what follows stands in the next one.
const MINIMAL_LINES: u32 = 5;

fn read(text: &str) -> Result<Checked<Config>, Report> {
    parse(&Source::new("/etc/portcullis/gateway.toml", text))
}

fn good(text: &str) -> Config {
    let checked = read(text).unwrap_or_else(|report| panic!("{report}"));
    assert!(checked.warnings.is_empty(), "{}", checked.warnings);
    checked.value
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = good(MINIMAL);
    assert_eq!(config.policy, PathBuf::from("/etc/portcullis/policy.toml"));
    assert_eq!(
        config.control_socket,
        PathBuf::from("/run/portcullis/control.sock")
    );
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/portcullis"));
    assert_eq!(config.control, Control::default());
    assert_eq!(config.workers, Workers::default());
    assert_eq!(config.umem, Umem::default());
    assert_eq!(config.conntrack, Conntrack::default());
    assert_eq!(config.exempt, Exempt::default());
    assert_eq!(config.limits.quotas, Quotas::None);
    assert_eq!((config.flow_log, config.metrics), (None, None));
    assert_eq!((config.account_id, config.region), (None, None));
    let link = Link {
        name: "uplink".into(),
        inside: "eth1".into(),
        outside: "eth2".into(),
        xdp_mode: XdpMode::Auto,
        zero_copy: CopyMode::Auto,
        unregistered: Unregistered::Drop,
        on_exit: OnExit::Closed,
    };
    assert_eq!(config.links, [link]);
    assert!(read(MINIMAL).unwrap().notes.is_empty());
}

#[test]
#[expect(clippy::too_many_lines, reason = "one line for each key")]
fn every_key_is_read() {
    let text = r#"
policy = "/srv/p.toml"
control_socket = "c.sock"
state_dir = "state"
account_id = "123456789012"
region = "eu-central-1"
control = { owner = "root", group = 27, mode = "0660", history = 5 }
workers = { cores = [2, 3], burst = 32, idle = "spin" }
umem = { frames = 8192, frame_size = 4096, huge_pages = "require" }
conntrack.max_flows = 5_000
conntrack.on_rule_removed = "revalidate"
conntrack.tcp_pickup = "syn-only"
conntrack.tcp_strict = true
conntrack.icmp_errors = "rules"
conntrack.per_interface = { max_flows = 100, new_per_second = 7 }
conntrack.timeouts.tcp_established = "2h"
conntrack.timeouts.udp = 45
conntrack.timeouts.fragment = "1m"
exempt.addresses = ["169.254.169.254", "fd00:ec2::/64"]
exempt.ports = ["udp:123", "tcp:0"]
exempt.ethertypes = [0x88cc]
limits.quotas = "aws"
flow_log = { path = "f.log", format = "${srcaddr} ${action}", aggregation_interval = 600 }
metrics.listen = "[::1]:9464"
[[link]]
name = "a"
inside = "i0"
outside = "o0"
xdp_mode = "native"
zero_copy = "require"
unregistered = "pass"
on_exit = "open"
"#;
    let config = good(text);
    assert_eq!(config.policy, PathBuf::from("/srv/p.toml"));
    assert_eq!(
        config.control_socket,
        PathBuf::from("/etc/portcullis/c.sock")
    );
    assert_eq!(config.state_dir, PathBuf::from("/etc/portcullis/state"));
    assert_eq!(config.account_id.as_deref(), Some("123456789012"));
    assert_eq!(config.region.as_deref(), Some("eu-central-1"));
    assert_eq!(config.control.owner.as_deref(), Some("root"));
    assert_eq!(config.control.group.as_deref(), Some("27"));
    assert_eq!(config.control.mode, 0o660);
    assert_eq!(config.control.history, 5);
    assert_eq!(config.workers.cores, [2, 3]);
    assert_eq!(
        (config.workers.burst, config.workers.idle),
        (32, Idle::Spin)
    );
    assert_eq!((config.umem.frames, config.umem.frame_size), (8192, 4096));
    assert_eq!(config.umem.huge_pages, HugePages::Require);
    assert_eq!(config.conntrack.max_flows, 5_000);
    assert_eq!(config.conntrack.on_rule_removed, OnRuleRemoved::Revalidate);
    assert_eq!(config.conntrack.tcp_pickup, TcpPickup::SynOnly);
    assert!(config.conntrack.tcp_strict);
    assert_eq!(config.conntrack.icmp_errors, IcmpErrors::Rules);
    assert_eq!(config.conntrack.per_interface.max_flows, 100);
    assert_eq!(config.conntrack.per_interface.new_per_second, 7);
    let timeouts = config.conntrack.timeouts;
    assert_eq!(timeouts.tcp_established, Duration::from_secs(7_200));
    assert_eq!(timeouts.udp, Duration::from_secs(45));
    assert_eq!(timeouts.fragment, Duration::from_secs(60));
    assert_eq!(timeouts.icmp, Timeouts::default().icmp);
    assert_eq!(config.exempt.addresses.len(), 2);
    assert_eq!(config.exempt.addresses[0].to_string(), "169.254.169.254/32");
    let udp = ExemptPort {
        protocol: PortProtocol::Udp,
        port: 123,
    };
    assert_eq!(config.exempt.ports[0], udp);
    assert_eq!(config.exempt.ethertypes, [0x88cc]);
    assert_eq!(config.limits.quotas, Quotas::Aws);
    let flow_log = config.flow_log.unwrap();
    assert_eq!(flow_log.path, PathBuf::from("/etc/portcullis/f.log"));
    assert_eq!(flow_log.aggregation_interval, Duration::from_secs(600));
    assert_eq!(config.metrics.unwrap().listen.port(), 9464);
    let link = &config.links[0];
    assert_eq!(
        (link.xdp_mode, link.zero_copy),
        (XdpMode::Native, CopyMode::Require)
    );
    assert_eq!(
        (link.unregistered, link.on_exit),
        (Unregistered::Pass, OnExit::Open)
    );
}

#[test]
fn what_is_not_active_yet_is_noted_and_only_where_it_is_written() {
    let text = format!(
        "{MINIMAL}[conntrack]\n\
         per_interface = {{ max_flows = 1, new_per_second = 0 }}\n[limits]\nquotas = \"aws\"\n\
         [flow_log]\npath = \"f\"\n[metrics]\nlisten = \"127.0.0.1:1\"\n"
    );
    let checked = read(&text).unwrap();
    let lines: Vec<u32> = checked
        .notes
        .problems()
        .iter()
        .map(|note| note.line)
        .collect();
    assert_eq!(lines, [9, 10, 12], "{}", checked.notes);
    assert!(
        checked
            .notes
            .to_string()
            .contains("[flow_log] is not active yet")
    );
    assert!(checked.warnings.is_empty());
    let quiet = format!(
        "{MINIMAL}[conntrack]\nicmp_errors = \"rules\"\non_rule_removed = \"keep\"\n\
         per_interface = {{ max_flows = 0 }}\n[limits]\nquotas = \"none\"\n"
    );
    assert!(read(&quiet).unwrap().notes.is_empty());
}

/// One broken file: what to add to [`MINIMAL`], the line of it counted from 1, the column, and
/// part of the message and remedy.
type Broken = (&'static str, u32, u32, &'static str);

const BROKEN: &[Broken] = &[
    (
        "[workers]\ncore = [1]\n",
        2,
        1,
        "unknown key `core` in [workers] (did you mean `cores`?)",
    ),
    (
        "[worker]\n",
        1,
        2,
        "unknown key `worker` in the gateway file (did you mean `workers`?)",
    ),
    (
        "[workers]\ncores = 2\n",
        2,
        9,
        "`cores` must be an array, not an integer",
    ),
    ("[workers]\ncores = []\n", 2, 9, "`cores` is empty"),
    (
        "[workers]\ncores = [1, 2, 1]\n",
        2,
        16,
        "core 1 is named twice",
    ),
    (
        "[workers]\ncores = [-1]\n",
        2,
        10,
        "a core is a number from 0 to 1023, not -1",
    ),
    (
        "[workers]\ncores = [\"a\"]\n",
        2,
        10,
        "`cores` must be an integer, not a string",
    ),
    (
        "[workers]\nburst = 0\n",
        2,
        9,
        "`burst` is from 1 to 64, not 0",
    ),
    (
        "[workers]\nburst = 65\n",
        2,
        9,
        "`burst` is from 1 to 64, not 65",
    ),
    ("[workers]\nidle = \"spni\"\n", 2, 8, "did you mean `spin`?"),
    (
        "[umem]\nframes = 10\n",
        2,
        10,
        "`frames` is from 1024 to 4194304, not 10",
    ),
    (
        "[umem]\nframe_size = 1024\n",
        2,
        14,
        "`frame_size` is 2048 or 4096, not 1024",
    ),
    (
        "[umem]\nhuge_pages = true\n",
        2,
        14,
        "`huge_pages` must be a string, not a boolean",
    ),
    (
        "[control]\nmode = 660\n",
        2,
        8,
        "`mode` is not a set of permission bits",
    ),
    (
        "[control]\nmode = \"0666\"\n",
        2,
        8,
        "lets every user of the host",
    ),
    (
        "[control]\nmode = \"rw\"\n",
        2,
        8,
        "`mode` is not a set of permission bits",
    ),
    (
        "[control]\nowner = \"a b\"\n",
        2,
        9,
        "`owner` is not the name of an account",
    ),
    (
        "[conntrack]\nmax_flows = 0\n",
        2,
        13,
        "`max_flows` is from 1 to 67108864, not 0",
    ),
    (
        "[conntrack]\nmax_flows = 67108865\n",
        2,
        13,
        "`max_flows` is from 1 to 67108864",
    ),
    (
        "[conntrack]\ntcp_strict = 1\n",
        2,
        14,
        "`tcp_strict` must be true or false",
    ),
    (
        "[conntrack]\nper_interface = 3\n",
        2,
        17,
        "`per_interface` must be a table",
    ),
    (
        "[conntrack.timeouts]\nudp = 61\n",
        2,
        7,
        "`udp` is from 30 to 60 seconds, not 61",
    ),
    (
        "[conntrack.timeouts]\nudp = \"soon\"\n",
        2,
        7,
        "`udp` is not a time",
    ),
    (
        "[conntrack.timeouts]\nudp = \"30\"\n",
        2,
        7,
        "`udp` is not a time",
    ),
    (
        "[conntrack.timeouts]\nudp = 30.5\n",
        2,
        7,
        "`udp` is not a time",
    ),
    (
        "[conntrack.timeouts]\nudp = -1\n",
        2,
        7,
        "`udp` is not a time",
    ),
    (
        "[conntrack.timeouts]\nudp = \"99999999999999999999h\"\n",
        2,
        7,
        "`udp` is not a time",
    ),
    (
        "[conntrack.timeouts]\nicpm = 30\n",
        2,
        1,
        "did you mean `icmp`?",
    ),
    (
        "[exempt]\naddresses = [\"ntp\"]\n",
        2,
        14,
        "`ntp` is neither an address nor a prefix",
    ),
    (
        "[exempt]\nports = [\"123\"]\n",
        2,
        10,
        "`123` is not a protocol and a port",
    ),
    (
        "[exempt]\nports = [\"udp:+1\"]\n",
        2,
        10,
        "`udp:+1` is not a protocol and a port",
    ),
    (
        "[exempt]\nports = [\"udp:65536\"]\n",
        2,
        10,
        "`udp:65536` is not a protocol and a port",
    ),
    (
        "[exempt]\nethertypes = [0x0800]\n",
        2,
        15,
        "0x0800 is IPv4 itself",
    ),
    (
        "[exempt]\nethertypes = [0x8100]\n",
        2,
        15,
        "0x8100 is a VLAN tag",
    ),
    (
        "[exempt]\nethertypes = [1]\n",
        2,
        15,
        "an ethertype is from 0x0600 to 0xffff, not 1",
    ),
    (
        "[limits]\nquotas = \"amazon\"\n",
        2,
        10,
        "`quotas` is one of \"none\", \"aws\"",
    ),
    ("[flow_log]\n", 1, 1, "[flow_log] has no `path`"),
    (
        "[flow_log]\npath = \"\"\n",
        2,
        8,
        "the path `path` is empty",
    ),
    (
        "[flow_log]\npath = \"f\"\nformat = \"${srcadr}\"\n",
        3,
        10,
        "did you mean `srcaddr`?",
    ),
    (
        "[flow_log]\npath = \"f\"\nformat = \" \"\n",
        3,
        10,
        "`format` is empty",
    ),
    (
        "[flow_log]\npath = \"f\"\naggregation_interval = 90\n",
        3,
        24,
        "is \"60s\" or \"600s\"",
    ),
    (
        "[metrics]\nlisten = \"localhost\"\n",
        2,
        10,
        "`localhost` is not an address and a port",
    ),
    ("[metrics]\n", 1, 1, "[metrics] has no `listen`"),
    (
        "[[link]]\nname = \"b\"\ninside = \"x\"\n",
        1,
        1,
        "[[link]] has no `outside`",
    ),
    (
        "[[link]]\nname = \"b\"\ninside = \"eth1\"\noutside = \"y\"\n",
        3,
        10,
        "the device `eth1`",
    ),
    (
        "[[link]]\nname = \"b\"\ninside = \"x\"\noutside = \"x\"\n",
        4,
        11,
        "the device `x`",
    ),
    (
        "[[link]]\nname = \"UpLink\"\ninside = \"x\"\noutside = \"y\"\n",
        2,
        8,
        "used twice",
    ),
    (
        "[[link]]\nname = \"none\"\ninside = \"x\"\noutside = \"y\"\n",
        2,
        8,
        "means no link",
    ),
    (
        "[[link]]\nname = \"a b\"\ninside = \"x\"\noutside = \"y\"\n",
        2,
        8,
        "no name of a link",
    ),
    (
        "[[link]]\nname = \"b\"\ninside = \"sixteen-bytes-is\"\noutside = \"y\"\n",
        3,
        10,
        "`sixteen-bytes-is` is no name of a device: 1 to 15 bytes",
    ),
    (
        "[[link]]\nname = \"b\"\ninside = \"x\"\noutside = \"y\"\nxdp_mode = \"generic\"\n\
         zero_copy = \"require\"\n",
        6,
        13,
        "generic XDP mode cannot do without a copy",
    ),
    ("[workers]\nburst = \n", 2, 9, "not valid TOML"),
    ("[conntrack]\ntcp_strict = tru\n", 2, 14, "not valid TOML"),
];

#[test]
fn each_problem_is_located_and_has_a_remedy() {
    for (lines, line, column, part) in BROKEN {
        let report = read(&format!("{MINIMAL}{lines}")).expect_err(lines);
        let problems = report.problems();
        let wanted = (MINIMAL_LINES + line, *column);
        let found = problems
            .iter()
            .find(|one| (one.line, one.column) == wanted && one.to_string().contains(part));
        assert!(
            found.is_some(),
            "{lines}\nwanted {wanted:?} {part}\nfound {report}"
        );
        assert!(problems.iter().all(|one| !one.help.is_empty()), "{report}");
        let errors = problems.iter().filter(|one| one.severity.name() == "error");
        assert_eq!(errors.count(), 1, "one mistake, one error: {report}");
    }
}

/// Broken files that are not [`MINIMAL`] and something more.
#[test]
fn what_is_required_is_missed() {
    let link = "[[link]]\nname = \"a\"\ninside = \"x\"\noutside = \"y\"\n";
    for (text, part) in [
        (
            link.to_owned(),
            "g.toml:1:1: error: the gateway file has no `policy`",
        ),
        (
            "policy = \"p\"\n".to_owned(),
            "g.toml:1:1: error: the gateway file has no `link`",
        ),
        (
            "policy = \"p\"\nlink = []\n".to_owned(),
            "g.toml:2:8: error: there is no link",
        ),
        (
            format!("policy = 3\n{link}"),
            "g.toml:1:10: error: `policy` must be a string",
        ),
        (
            "policy = \"p\"\n[link]\nname = \"a\"\n".to_owned(),
            "g.toml:2:1: error: a link is written with two brackets",
        ),
        (
            format!("policy = \"p\"\naccount_id = \"12\"\n{link}"),
            "g.toml:2:14: error: `account_id` is not 12 digits",
        ),
        (
            format!("policy = \"p\"\nregion = \"Mars 1\"\n{link}"),
            "g.toml:2:10: error: `region` is not 1 to 32",
        ),
        (
            format!(
                "policy = \"p\"\ncontrol_socket = \"/{}\"\n{link}",
                "x".repeat(107)
            ),
            "g.toml:2:18: error: the path of the control socket is 108 bytes",
        ),
    ] {
        let report = parse(&Source::new("g.toml", text.clone())).expect_err(&text);
        assert!(report.to_string().contains(part), "{text}\n{report}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = "polcy = \"p\"\n[workers]\nburst = 99\nidle = 3\n[[link]]\nname = \"none\"\n";
    let report = read(text).unwrap_err();
    assert_eq!(report.errors_count(), 6, "{report}");
}

#[test]
fn links_are_sixty_four_at_most() {
    let links = |count: usize| -> String {
        (0..count).fold("policy = \"p\"\n".to_owned(), |text, index| {
            format!(
                "{text}[[link]]\nname = \"l{index}\"\ninside = \"i{index}\"\n\
                 outside = \"o{index}\"\n"
            )
        })
    };
    assert_eq!(good(&links(64)).link_names().len(), 64);
    let report = read(&links(65)).unwrap_err();
    assert!(
        report
            .to_string()
            .contains("there are 65 links; 64 is the most"),
        "{report}"
    );
}

#[test]
fn a_long_list_of_exemptions_is_refused() {
    let list = |count: usize| {
        let ports: Vec<String> = (0..count).map(|port| format!("\"udp:{port}\"")).collect();
        format!("{MINIMAL}[exempt]\nports = [{}]\n", ports.join(","))
    };
    assert_eq!(good(&list(1024)).exempt.ports.len(), 1024);
    let report = read(&list(1025)).unwrap_err();
    assert!(
        report
            .to_string()
            .contains("`ports` has 1025 entries; 1024 is the most")
    );
}

#[test]
fn exempting_too_much_is_a_warning() {
    for (line, part) in [
        ("addresses = [\"0.0.0.0/0\"]", "every address is exempt"),
        ("addresses = [\"192.0.2.1/24\"]", "192.0.2.0/24 is meant"),
        ("ethertypes = [0x0806]", "ARP is let through unchecked"),
    ] {
        let checked = read(&format!("{MINIMAL}[exempt]\n{line}\n")).unwrap();
        assert!(
            checked.warnings.to_string().contains(part),
            "{}",
            checked.warnings
        );
    }
}

#[test]
fn every_gateway_file_in_configs_is_good() {
    let configs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs");
    for name in ["gateway.toml", "demo/gateway.toml"] {
        let checked = load(&configs.join(name)).unwrap_or_else(|report| panic!("{report}"));
        assert!(
            checked.warnings.is_empty() && checked.notes.is_empty(),
            "{}",
            checked.notes
        );
    }
}

/// The reference shows each key, commented out where it has no default or is not active yet; with
/// the comment signs of such lines gone it is still good.
#[test]
fn the_reference_has_every_key_and_its_default() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let as_is = parse(&Source::new("g.toml", text.clone())).unwrap().value;
    assert_eq!(as_is.conntrack, Conntrack::default());
    assert_eq!(as_is.umem, Umem::default());
    assert_eq!(as_is.exempt, Exempt::default());
    let all: String = text
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n")
        .collect();
    let all = parse(&Source::new("g.toml", all)).unwrap_or_else(|report| panic!("{report}"));
    assert!(all.value.flow_log.is_some() && all.value.metrics.is_some());
    for key in [
        "policy",
        "control_socket",
        "owner",
        "group",
        "mode",
        "history",
        "state_dir",
        "account_id",
        "region",
        "cores",
        "burst",
        "idle",
        "frames",
        "frame_size",
        "huge_pages",
        "name",
        "inside",
        "outside",
        "xdp_mode",
        "zero_copy",
        "unregistered",
        "on_exit",
        "max_flows",
        "on_rule_removed",
        "tcp_pickup",
        "tcp_strict",
        "icmp_errors",
        "per_interface",
        "tcp_syn_sent",
        "tcp_syn_received",
        "tcp_established",
        "tcp_closing",
        "tcp_time_wait",
        "tcp_reset",
        "udp",
        "udp_stream",
        "icmp",
        "other",
        "fragment",
        "addresses",
        "ports",
        "ethertypes",
        "quotas",
        "path",
        "format",
        "aggregation_interval",
        "listen",
    ] {
        let written = |line: &str| {
            line.trim_start_matches("#: ")
                .starts_with(&format!("{key} ="))
        };
        assert!(text.lines().any(written), "{key} is not in the reference");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(lines in proptest::collection::vec(
        prop_oneof![
            (0..BROKEN.len()).prop_map(|index| BROKEN[index].0.to_owned()),
            Just(MINIMAL.to_owned()),
            any::<String>(),
        ],
        0..6,
    )) {
        let text = lines.concat();
        if let Err(report) = read(&text) {
            prop_assert!(report.errors_count() > 0);
        }
    }
}
