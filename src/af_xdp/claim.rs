//! A port belongs to one gateway at a time: the claim is an abstract Unix socket with the port's
//! ifindex in its name. Abstract names are per network namespace, as ifindexes are, and vanish
//! with the process, so a dead gateway leaves nothing behind.

use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use super::device::Device;
use super::error::XdpError;
use super::sys;

/// A killed gateway holds its claim until the kernel has reaped it; together about one second.
const ATTEMPTS_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// The right to be the gateway of a port, for as long as it lives.
#[derive(Debug)]
pub(super) struct Claim {
    _listener: UnixListener,
}

impl Claim {
    /// Claims a port for this process.
    pub(super) fn take(device: &Device) -> Result<Self, XdpError> {
        let system =
            |e| XdpError::system(format!("claiming `{}`", device.name), "CAP_NET_ADMIN", e);
        let name = format!("portcullis/port/{}", device.ifindex);
        let address = SocketAddr::from_abstract_name(name).map_err(system)?;
        for _ in 0..ATTEMPTS_MAX {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => {
                    return Ok(Self {
                        _listener: listener,
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => thread::sleep(PAUSE),
                Err(e) => return Err(system(e)),
            }
        }
        let holder = UnixStream::connect_addr(&address).ok();
        Err(XdpError::InUse {
            device: device.name.clone(),
            process: holder.and_then(|stream| sys::peer_process(stream.as_fd()).ok()),
        })
    }
}
