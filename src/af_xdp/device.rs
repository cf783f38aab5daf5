//! What a network device is: one look at it through netlink, ethtool and /proc.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::abi::ifla_xdp;
use super::error::{Unfit, XdpError};
use super::ethtool::{Channels, Ethtool};
use super::netlink::{Attributes, Message, Netlink, NetlinkError, Request, ifinfomsg, u32_at};

const IFINFOMSG_LEN: usize = 16;
const IFADDRMSG_LEN: usize = 8;
/// `ARPHRD_ETHER`.
const HARDWARE_ETHERNET: u16 = 1;
const INFO_KIND: u16 = 1;
/// `struct rtnl_link_stats64` as far as it is read.
const STATS64_LEN: usize = 24 * 8;

/// The open ways to ask about devices. They stay in the network namespace they were opened in.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) netlink: Netlink,
    pub(super) ethtool: Ethtool,
}

impl Host {
    /// Opens them in the thread's network namespace.
    pub(super) fn open() -> Result<Self, XdpError> {
        let failed = |e| XdpError::system("opening a netlink socket", "CAP_NET_ADMIN", e);
        Ok(Self {
            netlink: Netlink::open().map_err(failed)?,
            ethtool: Ethtool::open().map_err(failed)?,
        })
    }
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack, after the driver has made its own copy of the packet.
    Generic,
}

impl Mode {
    /// `native` or `generic`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// The XDP program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttachedProgram {
    pub(super) id: u32,
    /// `None`: offloaded to the hardware, or in several modes at once.
    pub(super) mode: Option<Mode>,
}

/// Counters of a device, as the kernel keeps them for every device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceCounters {
    pub(super) rx_packets: u64,
    pub(super) tx_packets: u64,
    pub(super) rx_errors: u64,
    pub(super) tx_errors: u64,
    pub(super) rx_dropped: u64,
    pub(super) tx_dropped: u64,
    pub(super) rx_missed: u64,
}

/// One look at a device.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) mtu: u32,
    pub(super) hardware: u16,
    pub(super) flags: u32,
    /// Ifindex of the bridge, bond, … that it is a member of.
    pub(super) master: Option<u32>,
    /// `veth`, `bridge`, …; empty for most hardware.
    pub(super) kind: String,
    pub(super) driver: String,
    pub(super) queues: Channels,
    pub(super) program: Option<AttachedProgram>,
    pub(super) counters: DeviceCounters,
}

impl Device {
    /// Looks at a device by name.
    pub(super) fn look(host: &mut Host, name: &str) -> Result<Self, XdpError> {
        let no_device = || XdpError::NoDevice {
            device: name.to_owned(),
        };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(no_device());
        }
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let request = Request::new(libc::RTM_GETLINK, libc::NLM_F_ACK, &ifinfomsg(0, 0, 0))
            .attribute(libc::IFLA_IFNAME, &text);
        let answers = host.netlink.ask(request).map_err(|e| match e.errno() {
            libc::ENODEV => no_device(),
            _other => failed("reading", name, e),
        })?;
        let answer = answers
            .iter()
            .find(|a| a.kind == libc::RTM_NEWLINK)
            .ok_or_else(no_device)?;
        Self::parse(&host.ethtool, answer, name).ok_or_else(no_device)
    }

    fn parse(ethtool: &Ethtool, message: &Message, name: &str) -> Option<Self> {
        let attributes = message.attributes(IFINFOMSG_LEN);
        let ifindex = u32_at(&message.body, 4)?;
        let driver = ethtool.driver(name).unwrap_or_default();
        let allocated = Channels {
            rx: attributes.u32(libc::IFLA_NUM_RX_QUEUES).unwrap_or(1),
            tx: attributes.u32(libc::IFLA_NUM_TX_QUEUES).unwrap_or(1),
        };
        let queues = ethtool.channels(name).unwrap_or(allocated);
        let info = attributes.inside(libc::IFLA_LINKINFO);
        Some(Self {
            name: name.to_owned(),
            ifindex,
            mtu: attributes.u32(libc::IFLA_MTU)?,
            hardware: u16::from_ne_bytes(message.body.get(2..4)?.try_into().ok()?),
            flags: u32_at(&message.body, 8)?,
            master: attributes.u32(libc::IFLA_MASTER),
            kind: info.and_then(|i| i.text(INFO_KIND)).unwrap_or_default(),
            driver,
            queues,
            program: attributes.inside(ifla_xdp::IFLA_XDP).and_then(program),
            counters: attributes
                .find(libc::IFLA_STATS64)
                .map(counters)
                .unwrap_or_default(),
        })
    }

    /// Whether a flag (`IFF_…`) is set.
    pub(super) fn has(&self, flag: i32) -> bool {
        self.flags & flag.cast_unsigned() != 0
    }

    /// Whether it is one end of a veth pair.
    pub(super) fn is_veth(&self) -> bool {
        self.kind == "veth"
    }

    /// Refuses devices that cannot be a port of a wire.
    pub(super) fn check(&self, netlink: &mut Netlink) -> Result<(), XdpError> {
        let unfit = |reason| {
            Err(XdpError::Unfit {
                device: self.name.clone(),
                reason,
            })
        };
        if self.has(libc::IFF_LOOPBACK) {
            return unfit(Unfit::Loopback);
        }
        if self.hardware != HARDWARE_ETHERNET {
            return unfit(Unfit::NotEthernet(self.hardware));
        }
        if matches!(
            self.kind.as_str(),
            "bridge" | "bond" | "team" | "openvswitch"
        ) {
            return unfit(Unfit::Upper(self.kind.clone()));
        }
        if let Some(master) = self.master {
            return unfit(Unfit::Member(name_of(netlink, master)));
        }
        if let Some(address) = addresses(netlink, self)?
            .into_iter()
            .find(|a| !is_automatic(*a))
        {
            return unfit(Unfit::Address(address.to_string()));
        }
        Ok(())
    }

    /// Sets or clears interface flags.
    pub(super) fn set_flags(
        &self,
        netlink: &mut Netlink,
        flags: i32,
        set: bool,
    ) -> Result<(), XdpError> {
        let mask = flags.cast_unsigned();
        let header = ifinfomsg(self.ifindex, if set { mask } else { 0 }, mask);
        netlink
            .command(Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK, &header))
            .map_err(|e| failed("changing", &self.name, e))
    }
}

/// All IP addresses of a device.
pub(super) fn addresses(netlink: &mut Netlink, device: &Device) -> Result<Vec<IpAddr>, XdpError> {
    /// A dump is begun again when the list changed under it.
    const ATTEMPTS_MAX: usize = 8;
    for _ in 0..ATTEMPTS_MAX {
        let request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; IFADDRMSG_LEN]);
        let answers = match netlink.ask(request) {
            Ok(answers) => answers,
            Err(e) if e.source.kind() == io::ErrorKind::Interrupted => {
                // What is left of the interrupted dump must not mix with the next one.
                *netlink =
                    Netlink::open().map_err(|e| failed("reading", &device.name, e.into()))?;
                continue;
            }
            Err(e) => return Err(failed("reading the addresses of", &device.name, e)),
        };
        let ours = answers
            .iter()
            .filter(|a| u32_at(&a.body, 4) == Some(device.ifindex));
        return Ok(ours.filter_map(address).collect());
    }
    let busy = io::Error::from(io::ErrorKind::Interrupted);
    Err(failed(
        "reading the addresses of",
        &device.name,
        busy.into(),
    ))
}

fn address(message: &Message) -> Option<IpAddr> {
    let attributes = message.attributes(IFADDRMSG_LEN);
    // On a point-to-point address IFA_ADDRESS is the peer's.
    let bytes = attributes
        .find(libc::IFA_LOCAL)
        .or_else(|| attributes.find(libc::IFA_ADDRESS))?;
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        16 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|b| IpAddr::V6(Ipv6Addr::from(b))),
        _other => None,
    }
}

/// Link-local IPv6 addresses come by themselves, and go when IPv6 goes off on the port.
fn is_automatic(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// A device's name by its index, for messages.
fn name_of(netlink: &mut Netlink, ifindex: u32) -> String {
    let request = Request::new(
        libc::RTM_GETLINK,
        libc::NLM_F_ACK,
        &ifinfomsg(ifindex, 0, 0),
    );
    let answers = netlink.ask(request).unwrap_or_default();
    let name = answers
        .iter()
        .find_map(|a| a.attributes(IFINFOMSG_LEN).text(libc::IFLA_IFNAME));
    name.unwrap_or_else(|| format!("device {ifindex}"))
}

/// Reads IFLA_XDP.
fn program(xdp: Attributes<'_>) -> Option<AttachedProgram> {
    /// `XDP_ATTACHED_NONE`, `_DRV`, `_SKB`.
    const NONE: u8 = 0;
    const DRIVER: u8 = 1;
    const STACK: u8 = 2;
    let (mode, id) = match xdp.u8(ifla_xdp::ATTACHED)? {
        NONE => return None,
        DRIVER => (Some(Mode::Native), xdp.u32(ifla_xdp::DRV_PROG_ID)),
        STACK => (Some(Mode::Generic), xdp.u32(ifla_xdp::SKB_PROG_ID)),
        _several => (None, xdp.u32(ifla_xdp::HW_PROG_ID)),
    };
    let id = id.or_else(|| xdp.u32(ifla_xdp::PROG_ID)).unwrap_or(0);
    Some(AttachedProgram { id, mode })
}

/// Reads `struct rtnl_link_stats64`.
fn counters(bytes: &[u8]) -> DeviceCounters {
    let bytes = bytes.get(..STATS64_LEN).unwrap_or(bytes);
    let at = |index: usize| {
        let value = bytes
            .get(index * 8..index * 8 + 8)
            .and_then(|b| b.try_into().ok());
        value.map_or(0, u64::from_ne_bytes)
    };
    DeviceCounters {
        rx_packets: at(0),
        tx_packets: at(1),
        rx_errors: at(4),
        tx_errors: at(5),
        rx_dropped: at(6),
        tx_dropped: at(7),
        rx_missed: at(15),
    }
}

/// A refused netlink request about a device.
pub(super) fn failed(verb: &str, device: &str, error: NetlinkError) -> XdpError {
    let action = match &error.message {
        Some(message) => format!("{verb} `{device}` ({message})"),
        None => format!("{verb} `{device}`"),
    };
    XdpError::system(action, "CAP_NET_ADMIN", error.source)
}
