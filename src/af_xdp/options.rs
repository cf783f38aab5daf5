//! What a link is asked to be, and what it turned out to be.

use super::device::Mode;
use crate::types::PortSide;

/// Where the XDP program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, or in the stack where the driver cannot.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the stack.
    Generic,
}

/// Whether the device writes packets where they stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where both ports can.
    #[default]
    Auto,
    /// On both ports or not at all.
    Require,
    /// The kernel copies.
    Off,
}

/// Whether the memory area lies in huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Reserved ones if there are enough, else transparent ones if the kernel gives them.
    #[default]
    Auto,
    /// Reserved ones or not at all.
    Require,
    /// Ordinary pages.
    Off,
}

/// What a link does while no gateway runs, however the last one ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// Drops everything.
    #[default]
    Closed,
    /// Passes everything, in the driver.
    Open,
}

/// How a link is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkOptions {
    /// Its name, for messages.
    pub name: String,
    /// Device toward the protected hosts.
    pub inside: String,
    /// Device toward the rest of the network.
    pub outside: String,
    /// Where the XDP program runs.
    pub xdp_mode: XdpMode,
    /// Whether the devices write packets where they stay.
    pub zero_copy: ZeroCopy,
    /// What the link does while no gateway runs.
    pub on_exit: OnExit,
    /// Chunks of the memory area.
    pub frames: u32,
    /// Bytes of a chunk: 2048 or 4096.
    pub frame_size: u32,
    /// Whether the memory area lies in huge pages.
    pub huge_pages: HugePages,
    /// Slots of each ring of each queue: a power of two from 64 to 32768.
    pub ring_size: u32,
}

impl LinkOptions {
    /// A device by its side.
    #[must_use]
    pub fn device(&self, side: PortSide) -> &str {
        match side {
            PortSide::Inside => &self.inside,
            PortSide::Outside => &self.outside,
        }
    }
}

/// How a link turned out.
#[derive(Clone, Debug)]
pub struct LinkDescription {
    /// Its name.
    pub name: String,
    /// Its ports, by [`PortSide::index`].
    pub ports: [PortDescription; 2],
    /// Whether both ports write packets where they stay; else both copy.
    pub zero_copy: bool,
    /// Pages of the memory area.
    pub pages: PageKind,
    /// What a device or driver could not do, or needs from the operator; one line each.
    pub notes: Vec<String>,
}

/// Which pages hold a UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Reserved huge pages (hugetlb).
    Huge,
    /// Ordinary memory for which the kernel was asked to use transparent huge pages.
    Transparent,
    /// Ordinary pages.
    Small,
}

impl PageKind {
    /// `huge pages`, `transparent huge pages` or `4 KiB pages`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Huge => "huge pages",
            Self::Transparent => "transparent huge pages",
            Self::Small => "4 KiB pages",
        }
    }
}

/// How a port turned out.
#[derive(Clone, Debug)]
pub struct PortDescription {
    /// The device.
    pub device: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MTU.
    pub mtu: u32,
    /// Its driver; empty where it has none.
    pub driver: String,
    /// Where the XDP program runs.
    pub mode: Mode,
    /// Its receive queues.
    pub rx_queues: u32,
    /// Its transmit queues.
    pub tx_queues: u32,
}

/// What the kernel counts about a link.
#[derive(Clone, Debug)]
pub struct LinkStatistics {
    /// Of each socket.
    pub queues: Vec<QueueStatistics>,
    /// Of each device, by [`PortSide::index`].
    pub ports: [PortStatistics; 2],
}

/// What the kernel counts about one socket (`XDP_STATISTICS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStatistics {
    /// The port.
    pub side: PortSide,
    /// The queue.
    pub queue: u32,
    /// Received packets dropped because the fill ring was empty, or for other reasons, too long
    /// ones for instance.
    pub rx_dropped: u64,
    /// Fill-ring items that were no chunk.
    pub rx_invalid_descriptors: u64,
    /// TX-ring items that were no packet.
    pub tx_invalid_descriptors: u64,
    /// Received packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times that the fill ring was empty when a packet came; such packets are in `rx_dropped` too.
    pub rx_fill_ring_empty: u64,
    /// Times that the TX ring was empty when the kernel looked.
    pub tx_ring_empty: u64,
}

/// What the kernel counts about one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortStatistics {
    /// The device.
    pub device: String,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bad packets received.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Received packets that were dropped for want of room.
    pub rx_dropped: u64,
    /// Packets to send that were dropped for want of room.
    pub tx_dropped: u64,
    /// Packets that the device missed for want of room.
    pub rx_missed: u64,
    /// Packets that XDP dropped, where the driver counts them.
    pub xdp_drops: Option<u64>,
}

/// What has become of a port since its link was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// It forwards.
    Up,
    /// Somebody has set it down.
    Down,
    /// Its cable, or its other end, is down.
    NoCarrier,
    /// The device is gone; its sockets will never receive again.
    Gone,
    /// Another device has its name now.
    Replaced,
    /// Its XDP program was taken off or replaced: frames go past the gateway, to the host.
    Unguarded,
}

impl PortState {
    /// What it means, and what to do, for people.
    #[must_use]
    pub fn text(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "set down: nothing passes until it is set up",
            Self::NoCarrier => "no carrier: nothing passes until its other end is up",
            Self::Gone => {
                "the device is gone: nothing passes; make it again and restart the gateway"
            }
            Self::Replaced => {
                "another device has its name now, which the gateway does not use: restart the \
                 gateway"
            }
            Self::Unguarded => {
                "its XDP program is gone: frames reach the host and not the gateway; restart the \
                 gateway"
            }
        }
    }
}
