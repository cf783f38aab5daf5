//! The checked configuration. Plain data: each field says its unit, default, range and cost.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// Everything that `gateway.toml` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The policy file. Required; a relative path is taken from the folder of `gateway.toml`.
    pub policy: PathBuf,
    /// Where the control socket is made; default `/run/portcullis/control.sock`, at most 107 bytes
    /// (the kernel's limit for a socket's path).
    pub control_socket: PathBuf,
    /// Who may open the control socket.
    pub control: Control,
    /// Where versions of the policy and other state are kept; default `/var/lib/portcullis`.
    pub state_dir: PathBuf,
    /// 12 digits, for flow logs and ARNs; default none.
    pub account_id: Option<String>,
    /// For flow logs and ARNs; default none.
    pub region: Option<String>,
    /// The pinned threads.
    pub workers: Workers,
    /// Packet memory of each link.
    pub umem: Umem,
    /// The wires, in file order: 1 to 64, with distinct names and devices.
    pub links: Vec<Link>,
    /// Connection tracking.
    pub conntrack: Conntrack,
    /// What is never filtered, beside the fixed list (ARP, neighbor discovery, MLD, IGMP, DHCP).
    pub exempt: Exempt,
    /// Quotas on the policy.
    pub limits: Limits,
    /// Flow logs; default none. Not active yet.
    pub flow_log: Option<FlowLog>,
    /// The metrics endpoint; default none. Not active yet.
    pub metrics: Option<Metrics>,
}

impl Config {
    /// The names of all links, in file order: what a policy may name.
    #[must_use]
    pub fn link_names(&self) -> Vec<String> {
        self.links.iter().map(|link| link.name.clone()).collect()
    }
}

/// The control socket, and what the control side keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// User name or number that shall own the socket; default: who runs the gateway.
    pub owner: Option<String>,
    /// Group name or number that shall own the socket; default: the group of who runs it.
    pub group: Option<String>,
    /// Permission bits; default 0600. Whoever may write to the socket may change the policy, so
    /// none may be given to others.
    pub mode: u32,
    /// How many versions of the policy `history` lists and `rollback` finds; 1 to 1000, default
    /// 32. Each costs the memory of what it does not have in common with the next.
    pub history: u32,
}

impl Control {
    /// Default of [`Control::mode`]: its owner only.
    pub const MODE_DEFAULT: u32 = 0o600;
    /// Default of [`Control::history`].
    pub const HISTORY_DEFAULT: u32 = 32;
    /// Most of [`Control::history`].
    pub const HISTORY_MAX: u32 = 1000;
}

impl Default for Control {
    fn default() -> Self {
        Self {
            owner: None,
            group: None,
            mode: Self::MODE_DEFAULT,
            history: Self::HISTORY_DEFAULT,
        }
    }
}

/// The pinned threads that handle packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// One worker is pinned to each of these processor cores; no duplicates. Default: none named,
    /// and the caller takes one core. Each costs a core where `idle` is [`Idle::Spin`].
    pub cores: Vec<usize>,
    /// Most frames handled in one turn; 1 to 64, default 64. Fewer cost throughput.
    pub burst: usize,
    /// What a worker does when nothing comes; default [`Idle::Adaptive`].
    pub idle: Idle,
}

impl Workers {
    /// Most workers: far above any host, so that a slip of the hand is caught.
    pub const COUNT_MAX: usize = 256;
    /// Highest core number that the affinity mask of the system call has a bit for.
    pub const CORE_MAX: usize = 1023;
    /// Most frames in one turn, and the default: what all stages' arrays are sized for.
    pub const BURST_MAX: usize = 64;
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            cores: Vec::new(),
            burst: Self::BURST_MAX,
            idle: Idle::Adaptive,
        }
    }
}

/// What a worker does when nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the least latency, a core at 100 %.
    Spin,
    /// Polls for a while, then sleeps until the kernel has a frame.
    Adaptive,
    /// Sleeps at once: the least power, the most latency.
    Sleep,
}

/// Packet memory (UMEM), taken for each link at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Umem {
    /// Chunks for each link; 1,024 to 4,194,304, default 65,536. Costs `frames` × `frame_size`
    /// bytes of locked memory for each link.
    pub frames: u32,
    /// Bytes of a chunk: 2048 or 4096, default 2048. It bounds the frames that fit in one chunk.
    pub frame_size: u32,
    /// Whether the memory is of huge pages; default [`HugePages::Auto`].
    pub huge_pages: HugePages,
}

impl Umem {
    /// Default of [`Umem::frames`]: fills the rings of two ports of several queues.
    pub const FRAMES_DEFAULT: u32 = 65_536;
    /// Fewest chunks: one fill ring and one burst of each of two ports.
    pub const FRAMES_MIN: u32 = 1_024;
    /// Most chunks: 8 GiB of 2048 bytes.
    pub const FRAMES_MAX: u32 = 4_194_304;
    /// Default of [`Umem::frame_size`].
    pub const FRAME_SIZE_DEFAULT: u32 = 2_048;
}

impl Default for Umem {
    fn default() -> Self {
        Self {
            frames: Self::FRAMES_DEFAULT,
            frame_size: Self::FRAME_SIZE_DEFAULT,
            huge_pages: HugePages::Auto,
        }
    }
}

/// Whether packet memory is of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Where the host has some free.
    Auto,
    /// Or the start fails.
    Require,
    /// Never.
    Off,
}

/// A wire: two devices, one toward the protected hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What policies call it; unique. Never `none`.
    pub name: String,
    /// Device toward the protected hosts; 1 to 15 bytes (the kernel's `IFNAMSIZ`).
    pub inside: String,
    /// Device toward the rest of the network.
    pub outside: String,
    /// How the XDP program is attached; default [`XdpMode::Auto`].
    pub xdp_mode: XdpMode,
    /// Whether frames reach the memory without a copy; default [`CopyMode::Auto`]. Both devices
    /// are in one mode.
    pub zero_copy: CopyMode,
    /// Frames of or to hosts that no interface names; default [`Unregistered::Drop`].
    pub unregistered: Unregistered,
    /// What the link does while no gateway runs; default [`OnExit::Closed`].
    pub on_exit: OnExit,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver where it can, else generic.
    Auto,
    /// In the driver, or the start fails.
    Native,
    /// In the kernel's generic hook: any device, slower.
    Generic,
}

/// Whether the device writes straight into packet memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMode {
    /// Where both drivers can.
    Auto,
    /// Or the start fails.
    Require,
    /// Never.
    Off,
}

/// Frames of or to hosts that no interface names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unregistered {
    /// They are dropped and counted.
    Drop,
    /// They pass and are counted.
    Pass,
}

/// What a link does while no gateway runs, however it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// It drops everything.
    Closed,
    /// It passes everything, in the driver.
    Open,
}

/// Connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Most tracked flows, over all shards; 1 to 67,108,864, default 1,000,000. Its memory (about
    /// 80 bytes a flow of IPv4) is taken at start.
    pub max_flows: u32,
    /// What becomes of a tracked flow whose rule goes; default [`OnRuleRemoved::Keep`].
    pub on_rule_removed: OnRuleRemoved,
    /// TCP without an entry and without SYN; default [`TcpPickup::Rules`].
    pub tcp_pickup: TcpPickup,
    /// Whether data outside of the window is dropped; default no.
    pub tcp_strict: bool,
    /// ICMP errors about a tracked flow; default [`IcmpErrors::Related`].
    pub icmp_errors: IcmpErrors,
    /// Share of each interface that has none of its own in the policy; divided evenly between the
    /// workers.
    pub per_interface: PerInterface,
    /// How long entries live without a packet.
    pub timeouts: Timeouts,
}

impl Conntrack {
    /// Default of [`Conntrack::max_flows`].
    pub const MAX_FLOWS_DEFAULT: u32 = 1_000_000;
    /// Most flows: about 5 GiB of table.
    pub const MAX_FLOWS_MAX: u32 = 64 * 1024 * 1024;
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            max_flows: Self::MAX_FLOWS_DEFAULT,
            on_rule_removed: OnRuleRemoved::Keep,
            tcp_pickup: TcpPickup::Rules,
            tcp_strict: false,
            icmp_errors: IcmpErrors::Related,
            per_interface: PerInterface::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// What becomes of a tracked flow whose rule goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRuleRemoved {
    /// It lives on, as in AWS.
    Keep,
    /// It is judged again at its next packet, as it was opened.
    Revalidate,
}

/// What a TCP packet that belongs to no entry and is no SYN meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpPickup {
    /// The rules, as any packet.
    Rules,
    /// A drop.
    SynOnly,
}

/// ICMP errors about a tracked flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpErrors {
    /// They pass with the flow that they quote.
    Related,
    /// They need a rule, as AWS documents it.
    Rules,
}

/// What one interface may take of the table; 0 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerInterface {
    /// Most tracked flows of one interface; 0 to `max_flows`, default 0.
    pub max_flows: u32,
    /// Most new flows a second of one interface; default 0.
    pub new_per_second: u32,
}

/// How long an entry lives without a packet; whole seconds.
///
/// Ranges of the first three that AWS lets one set are AWS's ("Connection tracking" in the EC2
/// user guide); AWS publishes nothing for the others, whose defaults and ranges are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// After a SYN; default 30 s, 1 s to 5 min.
    pub tcp_syn_sent: Duration,
    /// After a SYN and its SYN-ACK; default 30 s, 1 s to 5 min.
    pub tcp_syn_received: Duration,
    /// Established TCP; default 350 s, 60 s to 5 days (AWS).
    pub tcp_established: Duration,
    /// After a FIN of one side; default 60 s, 1 s to 10 min.
    pub tcp_closing: Duration,
    /// The tombstone after both FINs; default 30 s, 1 s to 10 min.
    pub tcp_time_wait: Duration,
    /// The tombstone after an RST; default 10 s, 1 s to 10 min.
    pub tcp_reset: Duration,
    /// UDP of one request or response; default 30 s, 30 s to 60 s (AWS).
    pub udp: Duration,
    /// UDP of more than one request and response; default 180 s, 60 s to 180 s (AWS).
    pub udp_stream: Duration,
    /// ICMP queries; default 30 s, 1 s to 10 min.
    pub icmp: Duration,
    /// Every other protocol; default 600 s (AWS), 10 s to 1 h.
    pub other: Duration,
    /// What the first fragment decided, and how long early ones wait; default 30 s, 1 s to 60 s
    /// (RFC 8200 gives a reassembly 60 s).
    pub fragment: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: Duration::from_secs(30),
            tcp_syn_received: Duration::from_secs(30),
            tcp_established: Duration::from_secs(350),
            tcp_closing: Duration::from_secs(60),
            tcp_time_wait: Duration::from_secs(30),
            tcp_reset: Duration::from_secs(10),
            udp: Duration::from_secs(30),
            udp_stream: Duration::from_secs(180),
            icmp: Duration::from_secs(30),
            other: Duration::from_secs(600),
            fragment: Duration::from_secs(30),
        }
    }
}

/// What passes before anything else is asked, beside the fixed list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    /// Packets from inside to these addresses, and from outside of them; host bits are zero.
    /// Default none.
    pub addresses: Vec<IpNet>,
    /// Packets from inside to these ports, and answers from outside of them. Default none.
    pub ports: Vec<ExemptPort>,
    /// Frames of these types, 0x0600 and up, never IPv4, IPv6 or a VLAN tag. Default none.
    pub ethertypes: Vec<u16>,
}

/// One port that is exempt, written as `"udp:123"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExemptPort {
    /// Of which protocol.
    pub protocol: PortProtocol,
    /// The port.
    pub port: u16,
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Quotas on the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Which; default [`Quotas::None`].
    pub quotas: Quotas,
}

/// Which quotas a policy has to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quotas {
    /// The machine's own limits only.
    #[default]
    None,
    /// AWS's. Not active yet.
    Aws,
}

/// Where flow logs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowLog {
    /// The file. Required.
    pub path: PathBuf,
    /// `default` (version 2) or a `${field} ${field} …` list, as AWS writes it.
    pub format: String,
    /// 60 s or 600 s; default 60 s.
    pub aggregation_interval: Duration,
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Address and port. Required.
    pub listen: SocketAddr,
}
