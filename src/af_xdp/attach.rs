//! Putting the program on a device by netlink, so that it stays when the process goes.
//!
//! A bpf_link would have to be pinned for that, in a bpffs that a private mount namespace takes
//! with it. An attachment by netlink belongs to the device. The price: anybody with CAP_NET_ADMIN
//! can replace it. Ours is known by its name or by the record; anything else is never touched.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::abi::ifla_xdp;
use super::bpf::KernelProgram;
use super::device::{Device, Mode, failed};
use super::error::XdpError;
use super::netlink::{Netlink, NetlinkError, Request, ifinfomsg};
use super::options::XdpMode;
use super::program::PROGRAM_NAME;
use super::record::Record;

/// Our own program of an earlier run, still in force on a device.
#[derive(Debug)]
pub(super) struct Earlier {
    mode: Mode,
    /// `None` where the process may not open it (no CAP_SYS_ADMIN) but has it on record.
    fd: Option<OwnedFd>,
}

/// What has to be there for a change to happen.
#[derive(Clone, Copy, Debug)]
enum Condition<'a> {
    /// No program.
    Free,
    /// Exactly this one.
    Program(BorrowedFd<'a>),
    /// Anything: only where `identify` has just told it to be ours by the record.
    Any,
}

impl Earlier {
    fn condition(&self) -> Condition<'_> {
        self.fd
            .as_ref()
            .map_or(Condition::Any, |fd| Condition::Program(fd.as_fd()))
    }
}

/// What is on a device: nothing, ours, or an error that names what else.
pub(super) fn identify(device: &Device, record: &Record) -> Result<Option<Earlier>, XdpError> {
    let Some(program) = device.program else {
        return Ok(None);
    };
    let foreign = |program_name| XdpError::ForeignProgram {
        device: device.name.clone(),
        program_id: program.id,
        program_name,
        mode: program.mode.map_or("offloaded", Mode::name),
    };
    let (name, fd) = match KernelProgram::by_id(program.id) {
        Ok(found) if found.is_xdp => (found.name, Some(found.fd)),
        Ok(found) => return Err(foreign(found.name)),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            if !record.knows_program(program.id) {
                return Err(XdpError::UnknownProgram {
                    device: device.name.clone(),
                    program_id: program.id,
                });
            }
            (PROGRAM_NAME.to_owned(), None)
        }
        Err(e) => {
            let action = format!("inspecting the XDP program of `{}`", device.name);
            return Err(XdpError::system(action, "CAP_SYS_ADMIN", e));
        }
    };
    // Where the process that attached it lacked CAP_PERFMON, aya could not find out whether the
    // kernel takes names, and gave it none.
    let ours = name == PROGRAM_NAME || record.knows_program(program.id);
    match program.mode {
        Some(mode) if ours => Ok(Some(Earlier { mode, fd })),
        _foreign => Err(foreign(name)),
    }
}

/// Puts a program on a device, replacing an earlier one of ours; returns the mode.
pub(super) fn attach(
    netlink: &mut Netlink,
    device: &Device,
    program: BorrowedFd<'_>,
    wanted: XdpMode,
    earlier: Option<&Earlier>,
    notes: &mut Vec<String>,
) -> Result<Mode, XdpError> {
    let Some(earlier) = earlier else {
        return attach_first(netlink, device, program, wanted, notes);
    };
    let mode = match wanted {
        XdpMode::Auto => earlier.mode,
        XdpMode::Native => Mode::Native,
        XdpMode::Generic => Mode::Generic,
    };
    if mode != earlier.mode {
        return switch(netlink, device, program, mode, earlier);
    }
    if wanted == XdpMode::Auto && mode == Mode::Generic {
        notes.push(format!(
            "`{}` stays in generic mode, as the run before left it; `detach` lets native mode be \
             tried again",
            device.name
        ));
    }
    let set = set_program(netlink, device, Some(program), mode, earlier.condition());
    set.map(|()| mode).map_err(|e| refused(device, mode, e))
}

fn attach_first(
    netlink: &mut Netlink,
    device: &Device,
    program: BorrowedFd<'_>,
    wanted: XdpMode,
    notes: &mut Vec<String>,
) -> Result<Mode, XdpError> {
    let first = if wanted == XdpMode::Generic {
        Mode::Generic
    } else {
        Mode::Native
    };
    let error = match set_program(netlink, device, Some(program), first, Condition::Free) {
        Ok(()) => return Ok(first),
        Err(error) => error,
    };
    let lacking = !matches!(error.errno(), libc::EPERM | libc::EBUSY | libc::EEXIST);
    if wanted != XdpMode::Auto || !lacking {
        return Err(refused(device, first, error));
    }
    set_program(
        netlink,
        device,
        Some(program),
        Mode::Generic,
        Condition::Free,
    )
    .map_err(|e| refused(device, Mode::Generic, e))?;
    notes.push(format!(
        "`{}`: no native XDP ({}); generic mode, which is slower",
        device.name,
        error.detail()
    ));
    Ok(Mode::Generic)
}

/// Changes the mode of our program. A device cannot be in both, and between the two nothing
/// would hold frames back: so it is down meanwhile, and stays down if nothing can be attached.
fn switch(
    netlink: &mut Netlink,
    device: &Device,
    program: BorrowedFd<'_>,
    mode: Mode,
    earlier: &Earlier,
) -> Result<Mode, XdpError> {
    device.set_flags(netlink, libc::IFF_UP, false)?;
    if let Err(e) = set_program(netlink, device, None, earlier.mode, earlier.condition()) {
        // Still in force, so the device may come up again.
        device.set_flags(netlink, libc::IFF_UP, true)?;
        return Err(refused(device, earlier.mode, e));
    }
    let switched = set_program(netlink, device, Some(program), mode, Condition::Free)
        .map_err(|e| refused(device, mode, e));
    if switched.is_err() {
        set_program(
            netlink,
            device,
            Some(program),
            earlier.mode,
            Condition::Free,
        )
        .map_err(|e| refused(device, earlier.mode, e))?;
    }
    device.set_flags(netlink, libc::IFF_UP, true)?;
    switched.map(|()| mode)
}

/// Takes our program off a device.
pub(super) fn detach(
    netlink: &mut Netlink,
    device: &Device,
    ours: &Earlier,
) -> Result<(), XdpError> {
    set_program(netlink, device, None, ours.mode, ours.condition())
        .map_err(|e| refused(device, ours.mode, e))
}

/// Takes a program of this process off a device.
pub(super) fn detach_own(
    netlink: &mut Netlink,
    device: &Device,
    program: BorrowedFd<'_>,
    mode: Mode,
) -> Result<(), XdpError> {
    set_program(netlink, device, None, mode, Condition::Program(program))
        .map_err(|e| refused(device, mode, e))
}

fn set_program(
    netlink: &mut Netlink,
    device: &Device,
    program: Option<BorrowedFd<'_>>,
    mode: Mode,
    condition: Condition<'_>,
) -> Result<(), NetlinkError> {
    let mode_flag = match mode {
        Mode::Native => ifla_xdp::FLAG_DRV_MODE,
        Mode::Generic => ifla_xdp::FLAG_SKB_MODE,
    };
    let condition_flag = match condition {
        Condition::Free => ifla_xdp::FLAG_UPDATE_IF_NOEXIST,
        Condition::Program(_) => ifla_xdp::FLAG_REPLACE,
        Condition::Any => 0,
    };
    let fd = program.map_or(-1, |fd| fd.as_raw_fd()).to_ne_bytes();
    let flags = (mode_flag | condition_flag).to_ne_bytes();
    let expected = match condition {
        Condition::Program(fd) => Some(fd.as_raw_fd().to_ne_bytes()),
        Condition::Free | Condition::Any => None,
    };
    let mut attributes: Vec<(u16, &[u8])> = vec![(ifla_xdp::FD, &fd), (ifla_xdp::FLAGS, &flags)];
    if let Some(expected) = &expected {
        attributes.push((ifla_xdp::EXPECTED_FD, expected));
    }
    let header = ifinfomsg(device.ifindex, 0, 0);
    let request = Request::new(libc::RTM_SETLINK, libc::NLM_F_ACK, &header);
    netlink.command(request.nested(ifla_xdp::IFLA_XDP, &attributes))
}

fn refused(device: &Device, mode: Mode, error: NetlinkError) -> XdpError {
    match error.errno() {
        libc::EPERM => failed("attaching the XDP program to", &device.name, error),
        _other => XdpError::Attach {
            device: device.name.clone(),
            mode: mode.name(),
            detail: error.detail(),
            source: error.source,
        },
    }
}
