//! The ports of a link on their devices: checking, claiming and preparing them, putting the
//! program on, and undoing all of that.

use std::path::Path;

use super::abi::PACKET_HEADROOM;
use super::attach::{self, Earlier};
use super::claim::Claim;
use super::device::{Device, Host, Mode};
use super::error::XdpError;
use super::options::{LinkOptions, OnExit, PortDescription, PortState, PortStatistics};
use super::prepare;
use super::program::{PortProgram, QUEUES_MAX};
use super::record::Record;

/// Bytes before the IP packet: Ethernet header and two VLAN tags.
const L2_HEADER_LEN: u32 = 14 + 4 + 4;

/// A prepared device with the program on it.
#[derive(Debug)]
pub(super) struct LivePort {
    pub(super) device: Device,
    pub(super) mode: Mode,
    pub(super) program: PortProgram,
    /// What undoes it all if the link is not activated.
    undo: Undo,
    _claim: Claim,
}

/// What was done to a device so far, so that a failure can put it back.
#[derive(Debug)]
struct Undo {
    record: Record,
    /// No program of ours was in force before, and the link was not activated.
    armed: bool,
}

impl LivePort {
    /// From now on the program and the settings stay when the link goes.
    pub(super) fn keep(&mut self) {
        self.undo.armed = false;
    }

    /// How the port turned out.
    pub(super) fn describe(&self) -> PortDescription {
        PortDescription {
            device: self.device.name.clone(),
            ifindex: self.device.ifindex,
            mtu: self.device.mtu,
            driver: self.device.driver.clone(),
            mode: self.mode,
            rx_queues: self.device.queues.rx,
            tx_queues: self.device.queues.tx,
        }
    }
}

/// What `detach` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// Whether a program of ours was on the port.
    pub program: bool,
    /// Settings that were put back, for people.
    pub restored: Vec<String>,
}

/// Takes our program off a port that no gateway runs, and puts the device back as it was.
///
/// # Errors
/// When a gateway runs on the port, the program there is not ours, or a setting cannot be put
/// back (the others are).
pub fn detach(device: &str, state_dir: &Path) -> Result<Detached, XdpError> {
    let mut host = Host::open()?;
    let device = Device::look(&mut host, device)?;
    let _claim = Claim::take(&device)?;
    let mut record = Record::open(state_dir, &device)?;
    let ours = attach::identify(&device, &record)?;
    if let Some(ours) = &ours {
        attach::detach(&mut host.netlink, &device, ours)?;
    }
    let (restored, result) = prepare::restore(&mut host, &device, &mut record);
    result.map(|()| Detached {
        program: ours.is_some(),
        restored,
    })
}

/// Refuses pairs of devices that cannot be the ports of a link.
pub(super) fn check_devices(
    host: &mut Host,
    options: &LinkOptions,
    devices: &[Device; 2],
) -> Result<(), XdpError> {
    let [inside, outside] = devices;
    if inside.ifindex == outside.ifindex {
        return Err(XdpError::SameDevice {
            link: options.name.clone(),
            device: inside.name.clone(),
        });
    }
    for device in devices {
        device.check(&mut host.netlink)?;
    }
    if inside.mtu != outside.mtu {
        return Err(XdpError::UnequalMtu {
            inside: inside.name.clone(),
            inside_mtu: inside.mtu,
            outside: outside.name.clone(),
            outside_mtu: outside.mtu,
        });
    }
    let room = options.frame_size.saturating_sub(PACKET_HEADROOM);
    let needed = inside.mtu.saturating_add(L2_HEADER_LEN);
    if needed > room {
        return Err(XdpError::MtuTooLarge {
            device: inside.name.clone(),
            mtu: inside.mtu,
            needed,
            frame_size: options.frame_size,
            room,
            mtu_max: room.saturating_sub(L2_HEADER_LEN),
        });
    }
    Ok(())
}

/// Claims and prepares both devices and puts the program on them.
pub(super) fn open_ports(
    host: &mut Host,
    options: &LinkOptions,
    devices: &[Device; 2],
    state_dir: &Path,
    notes: &mut Vec<String>,
) -> Result<[LivePort; 2], XdpError> {
    let [inside, outside] = devices;
    // Nothing is changed on either device before both are known to be free for us.
    let claims = [Claim::take(inside)?, Claim::take(outside)?];
    let [inside_claim, outside_claim] = claims;
    let inside_port = WaitingPort::look(inside, inside_claim, state_dir)?;
    let outside_port = WaitingPort::look(outside, outside_claim, state_dir)?;
    let mut inside_live = open_port(host, options, inside_port, outside.ifindex, notes)?;
    match open_port(host, options, outside_port, inside.ifindex, notes) {
        Ok(outside_live) => Ok([inside_live, outside_live]),
        Err(error) => {
            roll_back(host, std::slice::from_mut(&mut inside_live));
            Err(error)
        }
    }
}

/// A device that is free for us, before anything is changed on it.
#[derive(Debug)]
struct WaitingPort<'a> {
    device: &'a Device,
    claim: Claim,
    undo: Undo,
    earlier: Option<Earlier>,
}

impl<'a> WaitingPort<'a> {
    /// Finds out what earlier runs left on the device; refuses what is not ours.
    fn look(device: &'a Device, claim: Claim, state_dir: &Path) -> Result<Self, XdpError> {
        let record = Record::open(state_dir, device)?;
        let earlier = attach::identify(device, &record)?;
        let undo = Undo {
            record,
            armed: earlier.is_none(),
        };
        Ok(Self {
            device,
            claim,
            undo,
            earlier,
        })
    }
}

fn open_port(
    host: &mut Host,
    options: &LinkOptions,
    port: WaitingPort<'_>,
    other_ifindex: u32,
    notes: &mut Vec<String>,
) -> Result<LivePort, XdpError> {
    let WaitingPort {
        device,
        claim,
        mut undo,
        earlier,
    } = port;
    let mut attempt = || -> Result<(PortProgram, Mode), XdpError> {
        let mut program = PortProgram::load(options.on_exit, other_ifindex)?;
        prepare::prepare(host, device, &mut undo.record, notes)?;
        undo.record.add_program(program.id())?;
        let mode = attach::attach(
            &mut host.netlink,
            device,
            program.fd()?,
            options.xdp_mode,
            earlier.as_ref(),
            notes,
        )?;
        Ok((program, mode))
    };
    let (program, mode) = match attempt() {
        Ok(attached) => attached,
        Err(error) => {
            undo.settings(host, device);
            return Err(error);
        }
    };
    let mut live = LivePort {
        device: device.clone(),
        mode,
        program,
        undo,
        _claim: claim,
    };
    let settled = settle(host, options, &mut live, notes);
    if let Err(error) = settled {
        roll_back(host, std::slice::from_mut(&mut live));
        return Err(error);
    }
    Ok(live)
}

/// What can be done only with the program in force.
fn settle(
    host: &mut Host,
    options: &LinkOptions,
    port: &mut LivePort,
    notes: &mut Vec<String>,
) -> Result<(), XdpError> {
    if port.mode == Mode::Generic {
        prepare::prepare_generic(host, &port.device, &mut port.undo.record)?;
    }
    if port.device.is_veth() && options.on_exit == OnExit::Open && port.mode == Mode::Native {
        notes.push(format!(
            "`{}` is a veth: with on_exit = \"open\" its peer needs GRO on (`ethtool -K … gro on`) \
             to get frames while no gateway runs",
            port.device.name
        ));
    }
    port.device = Device::look(host, &port.device.name)?;
    if port.device.queues.rx > QUEUES_MAX {
        return Err(XdpError::QueuesTooMany {
            device: port.device.name.clone(),
            queues: port.device.queues.rx,
            limit: QUEUES_MAX,
        });
    }
    Ok(())
}

impl Undo {
    /// Puts settings back if nothing of ours was in force before.
    fn settings(&mut self, host: &mut Host, device: &Device) {
        if !self.armed {
            return;
        }
        self.armed = false;
        if let (_done, Err(error)) = prepare::restore(host, device, &mut self.record) {
            tracing::warn!(device = device.name, %error, "not all settings could be put back");
        }
    }
}

/// Takes the program off ports on which none of ours was before, and puts their settings back.
pub(super) fn roll_back(host: &mut Host, ports: &mut [LivePort]) {
    for port in ports.iter_mut().rev().filter(|port| port.undo.armed) {
        let detached = port.program.fd().and_then(|program| {
            attach::detach_own(&mut host.netlink, &port.device, program, port.mode)
        });
        if let Err(error) = detached {
            // The program stays, so the record has to stay as well.
            tracing::warn!(device = port.device.name, %error, "the XDP program stays");
            port.undo.armed = false;
        }
        port.undo.settings(host, &port.device);
    }
}

/// What has become of a port.
///
/// # Errors
/// When the kernel cannot be asked.
pub(super) fn port_state(host: &mut Host, port: &LivePort) -> Result<PortState, XdpError> {
    let now = match Device::look(host, &port.device.name) {
        Ok(now) => now,
        Err(XdpError::NoDevice { .. }) => return Ok(PortState::Gone),
        Err(error) => return Err(error),
    };
    Ok(if now.ifindex != port.device.ifindex {
        PortState::Replaced
    } else if now.program.map(|program| program.id) != Some(port.program.id()) {
        PortState::Unguarded
    } else if !now.has(libc::IFF_UP) {
        PortState::Down
    } else if !now.has(libc::IFF_LOWER_UP) {
        PortState::NoCarrier
    } else {
        PortState::Up
    })
}

/// What the kernel counts about a device.
pub(super) fn port_statistics(host: &mut Host, name: &str) -> Result<PortStatistics, XdpError> {
    let device = Device::look(host, name)?;
    let counters = device.counters;
    Ok(PortStatistics {
        device: device.name,
        rx_packets: counters.rx_packets,
        tx_packets: counters.tx_packets,
        rx_errors: counters.rx_errors,
        tx_errors: counters.tx_errors,
        rx_dropped: counters.rx_dropped,
        tx_dropped: counters.tx_dropped,
        rx_missed: counters.rx_missed,
        xdp_drops: xdp_drops(host, name),
    })
}

/// Sum of the driver's counters of XDP drops, which each driver names in its own way
/// (`rx_queue_0_xdp_drops`, `rx_xdp_drop`, …).
fn xdp_drops(host: &Host, name: &str) -> Option<u64> {
    let counters = host.ethtool.statistics(name).ok()?;
    let drops: Vec<u64> = counters
        .into_iter()
        .filter(|(name, _)| name.contains("xdp_drop"))
        .map(|(_, value)| value)
        .collect();
    (!drops.is_empty()).then(|| {
        drops
            .iter()
            .fold(0_u64, |sum, value| sum.saturating_add(*value))
    })
}
