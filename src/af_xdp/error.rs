//! What can go wrong with real devices, said so that the operator knows what to do.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use thiserror::Error;

/// Why a link could not be opened, activated, read or detached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum XdpError {
    /// No device has that name in this network namespace.
    #[error("no network device `{device}` in this network namespace")]
    NoDevice {
        /// Its name.
        device: String,
    },
    /// Both ports of a link are the same device.
    #[error("link `{link}`: `{device}` cannot be both its inside and its outside")]
    SameDevice {
        /// The link.
        link: String,
        /// The device.
        device: String,
    },
    /// The device cannot be a port.
    #[error("`{device}` cannot be a port: {reason}")]
    Unfit {
        /// Its name.
        device: String,
        /// Why not, and what to do about it.
        reason: Unfit,
    },
    /// The two ports have different MTUs.
    #[error(
        "the ports of a link need the same MTU: `{inside}` has {inside_mtu}, `{outside}` has \
         {outside_mtu}"
    )]
    UnequalMtu {
        /// Inside device.
        inside: String,
        /// Its MTU.
        inside_mtu: u32,
        /// Outside device.
        outside: String,
        /// Its MTU.
        outside_mtu: u32,
    },
    /// Packets of the ports' MTU do not fit a chunk.
    #[error(
        "`{device}` has MTU {mtu}: with Ethernet header and two VLAN tags a packet is {needed} \
         bytes, but a chunk of frame_size {frame_size} holds {room}; lower the MTU to {mtu_max} \
         or raise frame_size"
    )]
    MtuTooLarge {
        /// Its name.
        device: String,
        /// Its MTU.
        mtu: u32,
        /// Bytes of a full packet.
        needed: u32,
        /// The configured chunk size.
        frame_size: u32,
        /// Bytes of packet in a chunk.
        room: u32,
        /// Largest MTU that fits.
        mtu_max: u32,
    },
    /// A gateway runs on the port.
    #[error("a gateway runs on `{device}` already{}; stop it first", process_text(*.process))]
    InUse {
        /// The device.
        device: String,
        /// Process that holds it, where the kernel tells.
        process: Option<i32>,
    },
    /// Another XDP program is on the device.
    #[error(
        "`{device}` has an XDP program that is not ours: id {program_id}, name `{program_name}`, \
         {mode} mode; take it off first (for instance `ip link set dev {device} xdp off`)"
    )]
    ForeignProgram {
        /// The device.
        device: String,
        /// The program's id in the kernel.
        program_id: u32,
        /// Its name; empty where it has none or it may not be read.
        program_name: String,
        /// How it is attached: `native`, `generic` or `offloaded`.
        mode: &'static str,
    },
    /// The program on the device may be ours, but we may not look.
    #[error(
        "`{device}` has an XDP program (id {program_id}) that this process may not inspect: give \
         it CAP_SYS_ADMIN, or take the program off first"
    )]
    UnknownProgram {
        /// The device.
        device: String,
        /// The program's id.
        program_id: u32,
    },
    /// The driver does not take the program in the mode that is required.
    #[error("`{device}`: no {mode} XDP: {detail}")]
    Attach {
        /// The device.
        device: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// The kernel's words, or what they amount to.
        detail: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Zero copy is required and a port cannot do it.
    #[error("`{device}` queue {queue}: no zero copy, which `zero_copy = \"require\"` wants")]
    ZeroCopy {
        /// The device.
        device: String,
        /// The queue that refused.
        queue: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Zero copy is required but the program runs in generic mode.
    #[error("`{device}`: zero copy needs native XDP, but the port is in generic mode")]
    ZeroCopyGeneric {
        /// The device.
        device: String,
    },
    /// Huge pages are required and there are too few.
    #[error(
        "huge_pages = \"require\" wants {count} free huge pages of 2 MiB for the UMEM; reserve \
         them with vm.nr_hugepages"
    )]
    HugePages {
        /// How many pages the UMEM takes.
        count: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses to lock so much memory.
    #[error(
        "the kernel refuses to lock {bytes} bytes for the UMEM{}: give the process CAP_IPC_LOCK \
         or raise RLIMIT_MEMLOCK", limit_text(*.limit)
    )]
    LockedMemory {
        /// Size of the UMEM.
        bytes: u64,
        /// The limit in force, if there is one.
        limit: Option<u64>,
    },
    /// Another program has bound the queue, and did not go away in time.
    #[error("`{device}` queue {queue} is bound by another AF_XDP socket")]
    QueueBusy {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// More queues than the program's map has slots.
    #[error("`{device}` has {queues} receive queues; at most {limit} are supported")]
    QueuesTooMany {
        /// The device.
        device: String,
        /// How many it has.
        queues: u32,
        /// How many there may be.
        limit: u32,
    },
    /// The UMEM has too few chunks for the queues.
    #[error("umem.frames = {frames} is too small: {queues} queues need {needed} at least")]
    FramesTooFew {
        /// Configured.
        frames: u32,
        /// Queues of both ports.
        queues: u32,
        /// Least that works.
        needed: u32,
    },
    /// An option has a value that cannot be.
    #[error("{option} = {value}: {expected}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What was given.
        value: u32,
        /// What it may be.
        expected: &'static str,
    },
    /// A privilege is missing.
    #[error("{action} needs {capability}")]
    Privilege {
        /// What was tried.
        action: String,
        /// What it takes.
        capability: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The XDP program could not be loaded.
    #[error("loading the XDP program: {0}")]
    Object(#[from] EbpfError),
    /// The kernel refused the XDP program.
    #[error("loading the XDP program: {0}")]
    Program(#[from] ProgramError),
    /// A map of the XDP program could not be set.
    #[error("setting up the XDP program's maps: {0}")]
    Map(#[from] MapError),
    /// The record of what was changed on a device cannot be read or written.
    #[error(
        "the record of what was changed on a device, `{}`: {source}; state_dir has to be writable \
         and not full, and a record that cannot be read has to go (what it says is then not put \
         back by `detach`)", path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a device cannot be a port.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unfit {
    /// Loopback.
    #[error("it is the loopback device")]
    Loopback,
    /// Not Ethernet.
    #[error("it is not an Ethernet device (hardware type {0})")]
    NotEthernet(u16),
    /// Member of a bridge, bond or other upper device.
    #[error("it is a member of `{0}`; take it out with `ip link set dev … nomaster`")]
    Member(String),
    /// A bridge, bond or the like itself.
    #[error("it is itself a {0}; name its members' devices instead")]
    Upper(String),
    /// It has addresses, so the host itself talks on it.
    #[error("it has the address {0}; a port of a wire has none")]
    Address(String),
    /// A hardware function that the gateway cannot do without cannot be switched off.
    #[error("its {feature} cannot be switched off: {detail}")]
    Feature {
        /// The feature's name as `ethtool -k` shows it.
        feature: &'static str,
        /// Why it has to be off.
        detail: &'static str,
    },
}

impl XdpError {
    /// A failed system call; a refusal for want of privilege names the capability.
    pub(super) fn system(
        action: impl Into<String>,
        capability: &'static str,
        source: io::Error,
    ) -> Self {
        let action = action.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege {
                action,
                capability,
                source,
            },
            _other => Self::System { action, source },
        }
    }
}

fn process_text(process: Option<i32>) -> String {
    process.map_or_else(String::new, |id| format!(" (process {id})"))
}

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |bytes| format!(" (RLIMIT_MEMLOCK is {bytes})"))
}
