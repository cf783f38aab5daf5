//! Real network devices as [`Port`](crate::port::Port)s: AF_XDP sockets, their rings and memory,
//! the XDP program, and the devices' settings. `unsafe` lives here.
//!
//! | file | holds |
//! | --- | --- |
//! | `link` | a link from checks to forwarding |
//! | `live` | its two ports on their devices; `detach` |
//! | `options` | what a link is asked to be, how it turned out, what the kernel counts |
//! | `queue` | one queue as a worker sees it: the `Port` |
//! | `ring`, `umem`, `socket`, `sockets` | the binding: rings, memory, sockets |
//! | `program`, `attach`, `bpf` | the XDP program: loading, attaching, telling it from others |
//! | `device`, `prepare`, `record`, `claim` | devices: kinds, their settings, whose they are |
//! | `netlink`, `ethtool`, `sys`, `abi` | the ways to the kernel |
//!
//! Why a binding of our own: no permissive crate covers a shared memory area over all queues and
//! ports of a link, and a forwarder without it copies every packet.

mod abi;
mod attach;
mod bpf;
mod claim;
mod device;
mod error;
mod ethtool;
mod link;
mod live;
mod netlink;
mod options;
mod prepare;
mod program;
mod queue;
mod record;
mod ring;
mod socket;
mod sockets;
mod sys;
mod umem;

pub use device::Mode;
pub use error::{Unfit, XdpError};
pub use link::{Link, LinkQueue};
pub use live::{Detached, detach};
pub use options::{
    HugePages, LinkDescription, LinkOptions, LinkStatistics, OnExit, PageKind, PortDescription,
    PortState, PortStatistics, QueueStatistics, XdpMode, ZeroCopy,
};
pub use queue::XdpQueue;
pub use umem::Umem;
