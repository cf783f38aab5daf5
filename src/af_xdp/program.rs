//! The XDP program: loading it for one port, and its maps.
//!
//! The object is checked in beside its source and built into the binary, so that users need no
//! clang; a test rebuilds it and compares. aya loads it and creates the maps; attaching is ours
//! (`attach`), because aya's attachments end with the process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{DevMap, XskMap};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};

use super::error::XdpError;
use super::options::OnExit;
use super::socket::Socket;

/// Name of the program, as `ip link` and `bpftool prog` show it; how we know our own.
pub(super) const PROGRAM_NAME: &str = "portcullis";

/// Slots of the program's socket map.
pub(super) const QUEUES_MAX: u32 = 256;

/// The object as the compiler made it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("xdp_prog.bpf.o");

/// The program of one port, loaded.
#[derive(Debug)]
pub(super) struct PortProgram {
    ebpf: Ebpf,
    id: u32,
}

impl PortProgram {
    /// Loads the program for a port whose link's other port is `other_ifindex`.
    pub(super) fn load(on_exit: OnExit, other_ifindex: u32) -> Result<Self, XdpError> {
        let open = u32::from(on_exit == OnExit::Open);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("on_exit_open", &open, true)
            .map_max_entries("sockets", QUEUES_MAX)
            .load(OBJECT)
            .map_err(|e| privilege(&e).unwrap_or(XdpError::Object(e)))?;
        let program = program_of(&mut ebpf)?;
        program
            .load()
            .map_err(|e| privilege(&e).unwrap_or(XdpError::Program(e)))?;
        let id = program.info()?.id();
        if on_exit == OnExit::Open {
            let map = ebpf.map_mut("other_port").ok_or_else(incomplete)?;
            let mut other_port = DevMap::try_from(map)?;
            other_port.set(0, other_ifindex, None, 0).map_err(|e| {
                privilege(&e).unwrap_or_else(|| XdpError::System {
                    action: "setting the program's other port".to_owned(),
                    source: io::Error::other(e),
                })
            })?;
        }
        Ok(Self { ebpf, id })
    }

    /// Sends the frames of receive queue `queue` to `socket` from now on.
    pub(super) fn set_socket(&mut self, queue: u32, socket: &Socket) -> Result<(), XdpError> {
        let map = self.ebpf.map_mut("sockets").ok_or_else(incomplete)?;
        let mut sockets = XskMap::try_from(map)?;
        sockets.set(queue, socket.as_raw_fd(), 0)?;
        Ok(())
    }

    /// Sends the frames of receive queue `queue` to nobody from now on.
    pub(super) fn clear_socket(&mut self, queue: u32) -> Result<(), XdpError> {
        let map = self.ebpf.map_mut("sockets").ok_or_else(incomplete)?;
        XskMap::try_from(map)?.unset(queue)?;
        Ok(())
    }

    /// The program's descriptor.
    pub(super) fn fd(&mut self) -> Result<BorrowedFd<'_>, XdpError> {
        Ok(program_of(&mut self.ebpf)?.fd()?.as_fd())
    }

    /// The program's id in the kernel.
    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

fn program_of(ebpf: &mut Ebpf) -> Result<&mut Xdp, XdpError> {
    let program = ebpf.program_mut(PROGRAM_NAME).ok_or_else(incomplete)?;
    Ok(program.try_into()?)
}

/// Cannot happen with the object that is built in.
fn incomplete() -> XdpError {
    XdpError::System {
        action: "reading the built-in XDP object".to_owned(),
        source: io::Error::from(io::ErrorKind::InvalidData),
    }
}

/// The privilege error that hides in one of aya's.
fn privilege(error: &(dyn std::error::Error + 'static)) -> Option<XdpError> {
    let mut cause = Some(error);
    // aya nests a handful of errors at most.
    for _ in 0..8 {
        let current = cause?;
        if let Some(io_error) = current.downcast_ref::<io::Error>()
            && io_error.raw_os_error() == Some(libc::EPERM)
        {
            return Some(XdpError::Privilege {
                action: "loading the XDP program".to_owned(),
                capability: "CAP_BPF and CAP_NET_ADMIN",
                source: io::Error::from_raw_os_error(libc::EPERM),
            });
        }
        cause = current.source();
    }
    None
}
