//! Reads `gateway.toml`, one function a table.

use std::path::Path;

use super::exempt::read_exempt;
use super::link::read_links;
use super::observe::{read_flow_log, read_metrics};
use super::section::Section;
use super::{
    Config, Conntrack, Control, HugePages, IcmpErrors, Idle, Limits, OnRuleRemoved, PerInterface,
    Quotas, TcpPickup, Timeouts, Umem, Workers,
};
use crate::document::{self, Checked, Diagnostic, Diagnostics, Report, Severity, Source, Table};

/// Longest path of a Unix socket: `sun_path` is 108 bytes with its end (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Keys at the top of the file; a policy has none of them.
pub const KEYS: [&str; 14] = [
    "policy",
    "control_socket",
    "control",
    "state_dir",
    "account_id",
    "region",
    "workers",
    "umem",
    "link",
    "conntrack",
    "exempt",
    "limits",
    "flow_log",
    "metrics",
];

/// Reads and checks the file.
///
/// # Errors
/// As [`parse`], and if the file cannot be read.
pub fn load(path: &Path) -> Result<Checked<Config>, Report> {
    parse(&Source::read(path)?)
}

/// Reads and checks the text. Relative paths in it are taken from the folder of its name.
///
/// # Errors
/// With all problems of the document, if it has any that refuse it.
pub fn parse(source: &Source) -> Result<Checked<Config>, Report> {
    let mut diagnostics = Diagnostics::new();
    let document = document::read(source, &mut diagnostics);
    let base = Path::new(source.name()).parent().unwrap_or(Path::new(""));
    let config = read_config(&document.root(), base, &mut diagnostics);
    let failed = diagnostics.has_errors();
    let list = diagnostics.into_sorted();
    match config {
        Some(value) if !failed => {
            let (notes, warnings) = list
                .into_iter()
                .partition(|diagnostic| diagnostic.severity == Severity::Note);
            Ok(Checked {
                value,
                warnings: Report::new(source, warnings),
                notes: Report::new(source, notes),
            })
        }
        Some(_) | None => Err(Report::new(source, list)),
    }
}

/// Everything; none only where something required is not there, which then is reported.
fn read_config(root: &Table<'_>, base: &Path, diagnostics: &mut Diagnostics) -> Option<Config> {
    let mut top = Section::new(Some(root.clone()), "the gateway file", &KEYS, diagnostics);
    top.required(
        "policy",
        "write policy = \"policy.toml\", the file of the rules",
    );
    let policy = top.path("policy", base);
    let control_socket = read_control_socket(&mut top, base);
    let state_dir = top
        .path("state_dir", base)
        .unwrap_or_else(|| "/var/lib/portcullis".into());
    let account_id = read_account_id(&mut top);
    let region = read_region(&mut top);
    let config = Config {
        policy: policy.clone().unwrap_or_default(),
        control_socket,
        control: read_control(root, diagnostics),
        state_dir,
        account_id,
        region,
        workers: read_workers(root, diagnostics),
        umem: read_umem(root, diagnostics),
        links: read_links(root, diagnostics),
        conntrack: read_conntrack(root, diagnostics),
        exempt: read_exempt(root, diagnostics),
        limits: read_limits(root, diagnostics),
        flow_log: read_flow_log(root, base, diagnostics),
        metrics: read_metrics(root, diagnostics),
    };
    policy.map(|_| config)
}

fn read_control_socket(top: &mut Section<'_, '_>, base: &Path) -> std::path::PathBuf {
    let path = top
        .path("control_socket", base)
        .unwrap_or_else(|| "/run/portcullis/control.sock".into());
    let len = path.as_os_str().len();
    if len > SOCKET_PATH_BYTES_MAX {
        let span = top.value("control_socket").map(|value| value.span());
        let problem = Diagnostic::error(format!(
            "the path of the control socket is {len} bytes; the kernel takes \
             {SOCKET_PATH_BYTES_MAX} at most"
        ));
        let problem = problem.at(span.unwrap_or_default());
        top.diagnostics()
            .push(problem.help("choose a shorter path, as under /run"));
    }
    path
}

fn read_account_id(top: &mut Section<'_, '_>) -> Option<String> {
    let text = top.string("account_id")?;
    if text.text.len() == 12 && text.text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.text.to_owned());
    }
    let problem = Diagnostic::error("`account_id` is not 12 digits")
        .at(text.span)
        .help("write it as \"123456789012\"");
    top.diagnostics().push(problem);
    None
}

fn read_region(top: &mut Section<'_, '_>) -> Option<String> {
    let text = top.string("region")?;
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=32).contains(&text.text.len()) && text.text.bytes().all(allowed) {
        return Some(text.text.to_owned());
    }
    let problem = Diagnostic::error("`region` is not 1 to 32 of a-z, 0-9 and -")
        .at(text.span)
        .help("write it as \"eu-central-1\"");
    top.diagnostics().push(problem);
    None
}

fn read_control(root: &Table<'_>, diagnostics: &mut Diagnostics) -> Control {
    let keys = ["owner", "group", "mode", "history"];
    let mut section = Section::open(root, "control", &keys, diagnostics);
    let history = 1..=Control::HISTORY_MAX;
    Control {
        owner: read_account(&mut section, "owner"),
        group: read_account(&mut section, "group"),
        mode: read_mode(&mut section).unwrap_or(Control::MODE_DEFAULT),
        history: section.number("history", history, Control::HISTORY_DEFAULT),
    }
}

/// A user or group of the host: a name or a number.
fn read_account(section: &mut Section<'_, '_>, key: &str) -> Option<String> {
    let value = section.value(key)?;
    if let Some(number) = value.as_integer().and_then(|id| u32::try_from(id).ok()) {
        return Some(number.to_string());
    }
    let text = value.string(section.diagnostics())?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-$@".contains(&byte);
    if (1..=256).contains(&text.text.len()) && text.text.bytes().all(allowed) {
        return Some(text.text.to_owned());
    }
    let problem = Diagnostic::error(format!("`{key}` is not the name of an account"))
        .at(text.span)
        .help("write a name such as \"root\", or a number");
    section.diagnostics().push(problem);
    None
}

/// Permission bits: an octal number or a string of octal digits.
fn read_mode(section: &mut Section<'_, '_>) -> Option<u32> {
    let value = section.value("mode")?;
    let mode = match value.as_string() {
        Some(text) => u32::from_str_radix(text.text.trim_start_matches("0o"), 8).ok(),
        None => value
            .integer(section.diagnostics())
            .map(|mode| u32::try_from(mode).unwrap_or(u32::MAX)),
    };
    let wrong = match mode {
        None if value.as_string().is_none() => return None,
        Some(mode) if mode <= 0o777 && mode & 0o007 == 0 => return Some(mode),
        Some(mode) if mode <= 0o777 => "`mode` lets every user of the host change the policy",
        None | Some(_) => "`mode` is not a set of permission bits",
    };
    let problem = Diagnostic::error(wrong)
        .at(value.span())
        .help("write it in octal, as \"0600\" or 0o660, with nothing for others");
    section.diagnostics().push(problem);
    None
}

fn read_workers(root: &Table<'_>, diagnostics: &mut Diagnostics) -> Workers {
    let keys = ["cores", "burst", "idle"];
    let mut section = Section::open(root, "workers", &keys, diagnostics);
    let idle = [
        ("spin", Idle::Spin),
        ("adaptive", Idle::Adaptive),
        ("sleep", Idle::Sleep),
    ];
    let burst = section.number("burst", 1..=to_u32(Workers::BURST_MAX), 64_u32);
    Workers {
        cores: read_cores(&mut section),
        burst: usize::try_from(burst).unwrap_or(Workers::BURST_MAX),
        idle: section.choice("idle", &idle, Idle::Adaptive),
    }
}

fn read_cores(section: &mut Section<'_, '_>) -> Vec<usize> {
    let mut cores: Vec<usize> = Vec::new();
    let mut places: Vec<document::Span> = Vec::new();
    let items = section.items("cores");
    let empty = section
        .value("cores")
        .filter(|value| value.as_array().is_some_and(|items| items.is_empty()));
    if let Some(value) = empty {
        let problem = Diagnostic::error("`cores` is empty, so no worker would run")
            .at(value.span())
            .help("name a core for each worker, as in cores = [2, 3], or leave it out");
        section.diagnostics().push(problem);
    }
    for item in &items {
        let Some(number) = item.integer(section.diagnostics()) else {
            continue;
        };
        let core = usize::try_from(number)
            .ok()
            .filter(|core| *core <= Workers::CORE_MAX);
        let Some(core) = core else {
            let problem = Diagnostic::error(format!(
                "a core is a number from 0 to {}, not {number}",
                Workers::CORE_MAX
            ));
            let help = "see the host's cores with lscpu";
            section
                .diagnostics()
                .push(problem.at(item.span()).help(help));
            continue;
        };
        if let Some(first) = cores.iter().position(|other| *other == core) {
            let problem = Diagnostic::error(format!("core {core} is named twice"))
                .at(item.span())
                .label("again here")
                .help("give each worker a core of its own")
                .related(places.get(first).cloned().unwrap_or_default(), "first here");
            section.diagnostics().push(problem);
            continue;
        }
        cores.push(core);
        places.push(item.span());
    }
    if let Some(extra) = places.get(Workers::COUNT_MAX) {
        let problem = Diagnostic::error(format!(
            "there are {} workers; {} is the most",
            cores.len(),
            Workers::COUNT_MAX
        ));
        let help = "name fewer cores";
        section
            .diagnostics()
            .push(problem.at(extra.clone()).help(help));
    }
    cores
}

fn read_umem(root: &Table<'_>, diagnostics: &mut Diagnostics) -> Umem {
    let keys = ["frames", "frame_size", "huge_pages"];
    let mut section = Section::open(root, "umem", &keys, diagnostics);
    let huge_pages = [
        ("auto", HugePages::Auto),
        ("require", HugePages::Require),
        ("off", HugePages::Off),
    ];
    let range = Umem::FRAMES_MIN..=Umem::FRAMES_MAX;
    Umem {
        frames: section.number("frames", range, Umem::FRAMES_DEFAULT),
        frame_size: read_frame_size(&mut section),
        huge_pages: section.choice("huge_pages", &huge_pages, HugePages::Auto),
    }
}

fn read_frame_size(section: &mut Section<'_, '_>) -> u32 {
    let default = Umem::FRAME_SIZE_DEFAULT;
    let Some(value) = section.value("frame_size") else {
        return default;
    };
    match value.integer(section.diagnostics()) {
        Some(2048) => 2_048,
        Some(4096) => 4_096,
        None => default,
        Some(other) => {
            let problem = Diagnostic::error(format!("`frame_size` is 2048 or 4096, not {other}"))
                .at(value.span())
                .help("4096 for jumbo frames, else 2048");
            section.diagnostics().push(problem);
            default
        }
    }
}

fn read_conntrack(root: &Table<'_>, diagnostics: &mut Diagnostics) -> Conntrack {
    let keys = [
        "max_flows",
        "on_rule_removed",
        "tcp_pickup",
        "tcp_strict",
        "icmp_errors",
        "per_interface",
        "timeouts",
    ];
    let mut section = Section::open(root, "conntrack", &keys, diagnostics);
    let on_rule_removed = [
        ("keep", OnRuleRemoved::Keep),
        ("revalidate", OnRuleRemoved::Revalidate),
    ];
    let tcp_pickup = [
        ("rules", TcpPickup::Rules),
        ("syn-only", TcpPickup::SynOnly),
    ];
    let icmp_errors = [
        ("related", IcmpErrors::Related),
        ("rules", IcmpErrors::Rules),
    ];
    let max_flows = 1..=Conntrack::MAX_FLOWS_MAX;
    let mut conntrack = Conntrack {
        max_flows: section.number("max_flows", max_flows, Conntrack::MAX_FLOWS_DEFAULT),
        on_rule_removed: section.choice("on_rule_removed", &on_rule_removed, OnRuleRemoved::Keep),
        tcp_pickup: section.choice("tcp_pickup", &tcp_pickup, TcpPickup::Rules),
        tcp_strict: section.boolean("tcp_strict", false),
        icmp_errors: section.choice("icmp_errors", &icmp_errors, IcmpErrors::Related),
        per_interface: PerInterface::default(),
        timeouts: Timeouts::default(),
    };
    let table = section.value("per_interface");
    let per_interface = table.and_then(|value| value.table(section.diagnostics()));
    let table = section.value("timeouts");
    let timeouts = table.and_then(|value| value.table(section.diagnostics()));
    conntrack.per_interface = read_per_interface(per_interface, conntrack.max_flows, diagnostics);
    conntrack.timeouts = read_timeouts(timeouts, diagnostics);
    conntrack
}

fn read_per_interface(
    table: Option<Table<'_>>,
    max_flows: u32,
    diagnostics: &mut Diagnostics,
) -> PerInterface {
    let keys = ["max_flows", "new_per_second"];
    let mut section = Section::new(table, "[conntrack] per_interface", &keys, diagnostics);
    PerInterface {
        max_flows: section.number("max_flows", 0..=max_flows, 0),
        new_per_second: section.number("new_per_second", 0..=u32::MAX, 0),
    }
}

fn read_timeouts(table: Option<Table<'_>>, diagnostics: &mut Diagnostics) -> Timeouts {
    let keys = [
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
    ];
    let mut section = Section::new(table, "[conntrack.timeouts]", &keys, diagnostics);
    let default = Timeouts::default();
    let mut read = |key, range, value| section.duration(key, range, value);
    Timeouts {
        tcp_syn_sent: read("tcp_syn_sent", 1..=300, default.tcp_syn_sent),
        tcp_syn_received: read("tcp_syn_received", 1..=300, default.tcp_syn_received),
        tcp_established: read("tcp_established", 60..=432_000, default.tcp_established),
        tcp_closing: read("tcp_closing", 1..=600, default.tcp_closing),
        tcp_time_wait: read("tcp_time_wait", 1..=600, default.tcp_time_wait),
        tcp_reset: read("tcp_reset", 1..=600, default.tcp_reset),
        udp: read("udp", 30..=60, default.udp),
        udp_stream: read("udp_stream", 60..=180, default.udp_stream),
        icmp: read("icmp", 1..=600, default.icmp),
        other: read("other", 10..=3_600, default.other),
        fragment: read("fragment", 1..=60, default.fragment),
    }
}

fn read_limits(root: &Table<'_>, diagnostics: &mut Diagnostics) -> Limits {
    let mut section = Section::open(root, "limits", &["quotas"], diagnostics);
    let quotas = [("none", Quotas::None), ("aws", Quotas::Aws)];
    let quotas = section.choice("quotas", &quotas, Quotas::None);
    if quotas == Quotas::Aws {
        section.not_active("quotas", "[limits] quotas = \"aws\"");
    }
    Limits { quotas }
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
