//! AF_XDP sockets: creating them with their rings, and binding them to device queues.
//!
//! All sockets of a link share one UMEM. The first binds with flags; the others bind with
//! XDP_SHARED_UMEM alone and inherit copy mode and need_wakeup from it. Each socket is of its own
//! (device, queue), so each has its own fill and completion rings.
//! See <https://docs.kernel.org/6.12/networking/af_xdp.html>.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use super::abi::{
    Descriptor, MmapOffsets, PGOFF_COMPLETION, PGOFF_FILL, PGOFF_RX, PGOFF_TX, RingOffset,
    SockaddrXdp, UmemRegistration, XdpStatistics,
};
use super::error::XdpError;
use super::ring::{ConsumerRing, Item, ProducerRing};
use super::sys::{self, Mapping};
use super::umem::Umem;
use crate::sync::Arc;

/// How often a bind that finds its queue busy is tried again: a killed gateway's sockets go when
/// the kernel has reaped it, which takes as long as freeing its memory.
const BIND_ATTEMPTS_MAX: u32 = 100;
/// Pause between two attempts; together about five seconds.
const BIND_PAUSE: Duration = Duration::from_millis(50);

/// Packets that one wakeup may send in copy mode: a few bursts, so that none needs a second call,
/// and few enough that a call stays short.
const TRANSMIT_BUDGET: u32 = 256;

/// Whether the kernel copies packets or the device writes them where they stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyMode {
    ZeroCopy,
    Copy,
}

/// The device queue that a socket binds to.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueAddress<'a> {
    pub(super) device: &'a str,
    pub(super) ifindex: u32,
    pub(super) queue: u32,
}

/// Items that a socket's rings have room for; powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingSizes {
    /// The fill ring: how many chunks wait for frames of this queue.
    pub(super) fill: u32,
    /// The three others.
    pub(super) others: u32,
}

/// A bound socket. The last owner to drop it closes it, which also takes it out of the XSKMAP.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
}

/// The four rings of a socket.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) rx: ConsumerRing<Descriptor>,
    pub(super) tx: ProducerRing<Descriptor>,
    pub(super) fill: ProducerRing<u64>,
    pub(super) completion: ConsumerRing<u64>,
}

/// A socket whose bind failed.
#[derive(Debug)]
pub(super) enum BindError {
    /// It is already bound by somebody, and stayed so.
    Busy,
    /// The device cannot do this copy mode.
    Refused(io::Error),
    /// Anything else.
    Other(Box<XdpError>),
}

impl From<XdpError> for BindError {
    fn from(error: XdpError) -> Self {
        Self::Other(Box::new(error))
    }
}

impl Socket {
    /// Opens and binds the first socket of a UMEM.
    pub(super) fn bind_first(
        umem: &Umem,
        address: QueueAddress<'_>,
        sizes: RingSizes,
        mode: CopyMode,
    ) -> Result<(Self, Rings), BindError> {
        let mode_flag = match mode {
            CopyMode::ZeroCopy => libc::XDP_ZEROCOPY,
            CopyMode::Copy => libc::XDP_COPY,
        };
        let flags = libc::XDP_USE_NEED_WAKEUP | mode_flag;
        retry(|| {
            let socket = Self::open()?;
            socket.register(umem)?;
            socket.bind(address, sizes, flags, 0)
        })
    }

    /// Opens and binds a further socket of the UMEM that `self` has registered.
    pub(super) fn bind_further(
        &self,
        address: QueueAddress<'_>,
        sizes: RingSizes,
    ) -> Result<(Self, Rings), BindError> {
        let shared = u32::try_from(self.as_raw_fd()).unwrap_or(u32::MAX);
        retry(|| Self::open()?.bind(address, sizes, libc::XDP_SHARED_UMEM, shared))
    }

    fn open() -> Result<Self, XdpError> {
        sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)
            .map(|fd| Self { fd })
            .map_err(|e| XdpError::system("opening an AF_XDP socket", "CAP_NET_RAW", e))
    }

    /// Registers the memory area, which pins it.
    fn register(&self, umem: &Umem) -> Result<(), XdpError> {
        let registration = UmemRegistration {
            addr: umem.address(),
            len: umem.bytes_count(),
            chunk_size: umem.frame_size(),
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        let result = sys::set_option(
            self.as_fd(),
            libc::SOL_XDP,
            libc::XDP_UMEM_REG,
            &registration,
        );
        result.map_err(|source| match source.raw_os_error() {
            // The answer where RLIMIT_MEMLOCK is too low and CAP_IPC_LOCK is missing.
            Some(libc::ENOBUFS | libc::EPERM) => XdpError::LockedMemory {
                bytes: umem.bytes_count(),
                limit: sys::memlock_limit(),
            },
            _other => XdpError::system("registering the UMEM", "CAP_IPC_LOCK", source),
        })
    }

    /// Makes the rings and binds.
    fn bind(
        self,
        address: QueueAddress<'_>,
        sizes: RingSizes,
        flags: u16,
        shared_umem_fd: u32,
    ) -> Result<(Self, Rings), BindError> {
        let rings = self.rings(sizes)?;
        let sockaddr = SockaddrXdp {
            family: u16::try_from(libc::AF_XDP).unwrap_or(0),
            flags,
            ifindex: address.ifindex,
            queue_id: address.queue,
            shared_umem_fd,
        };
        match sys::bind_xdp(self.as_fd(), &sockaddr) {
            Ok(()) => Ok((self, rings)),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(BindError::Busy),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM)) => {
                Err(XdpError::system(bind_action(address), "CAP_NET_RAW", e).into())
            }
            Err(e) => Err(BindError::Refused(e)),
        }
    }

    fn rings(&self, sizes: RingSizes) -> Result<Rings, XdpError> {
        let RingSizes { fill, others: size } = sizes;
        let failed = |e| XdpError::system("making the rings of an AF_XDP socket", "CAP_NET_RAW", e);
        for (option, size) in [
            (libc::XDP_RX_RING, size),
            (libc::XDP_TX_RING, size),
            (libc::XDP_UMEM_FILL_RING, fill),
            (libc::XDP_UMEM_COMPLETION_RING, size),
        ] {
            sys::set_option(self.as_fd(), libc::SOL_XDP, option, &size).map_err(failed)?;
        }
        self.raise_transmit_budget(size);
        let offsets: MmapOffsets =
            sys::option(self.as_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS).map_err(failed)?;
        let map = || -> io::Result<Rings> {
            Ok(Rings {
                rx: self.consumer(&offsets.rx, size, PGOFF_RX)?,
                tx: self.producer(&offsets.tx, size, PGOFF_TX)?,
                fill: self.producer(&offsets.fill, fill, PGOFF_FILL)?,
                completion: self.consumer(&offsets.completion, size, PGOFF_COMPLETION)?,
            })
        };
        map().map_err(failed)
    }

    /// Lets one wakeup send a whole burst in copy mode, where the kernel can (6.17 and later);
    /// elsewhere it sends 32 packets a call.
    fn raise_transmit_budget(&self, ring_size: u32) {
        /// `XDP_MAX_TX_SKB_BUDGET` (`include/uapi/linux/if_xdp.h`, Linux 6.17).
        const MAX_TX_SKB_BUDGET: i32 = 9;
        let budget = ring_size.min(TRANSMIT_BUDGET);
        let set = sys::set_option(self.as_fd(), libc::SOL_XDP, MAX_TX_SKB_BUDGET, &budget);
        if let Err(e) = set {
            tracing::debug!(error = %e, "the kernel sends 32 packets a call");
        }
    }

    fn producer<T: Item>(
        &self,
        offset: &RingOffset,
        size: u32,
        page_offset: i64,
    ) -> io::Result<ProducerRing<T>> {
        let mapping = self.map_ring::<T>(offset, size, page_offset)?;
        ProducerRing::new(mapping, offset, size).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn consumer<T: Item>(
        &self,
        offset: &RingOffset,
        size: u32,
        page_offset: i64,
    ) -> io::Result<ConsumerRing<T>> {
        let mapping = self.map_ring::<T>(offset, size, page_offset)?;
        ConsumerRing::new(mapping, offset, size).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn map_ring<T>(
        &self,
        offset: &RingOffset,
        size: u32,
        page_offset: i64,
    ) -> io::Result<Arc<Mapping>> {
        let len = usize::try_from(offset.desc)
            .ok()
            .and_then(|start| {
                (size as usize)
                    .checked_mul(size_of::<T>())?
                    .checked_add(start)
            })
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Mapping::of_file(self.as_fd(), len, page_offset).map(Arc::new)
    }

    /// The kernel's counters of this socket.
    pub(super) fn statistics(&self) -> io::Result<XdpStatistics> {
        sys::option(self.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS)
    }

    /// The copy mode that the socket ended in.
    pub(super) fn copy_mode(&self) -> io::Result<CopyMode> {
        let options: u32 = sys::option(self.as_fd(), libc::SOL_XDP, libc::XDP_OPTIONS)?;
        let zero_copy = options & libc::XDP_OPTIONS_ZEROCOPY != 0;
        Ok(if zero_copy {
            CopyMode::ZeroCopy
        } else {
            CopyMode::Copy
        })
    }
}

#[cfg(test)]
impl Socket {
    /// Any descriptor in a socket's place.
    pub(super) fn of(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// What a failed bind was about, for its error.
pub(super) fn bind_action(address: QueueAddress<'_>) -> String {
    format!("binding to `{}` queue {}", address.device, address.queue)
}

/// Tries until the queue is not busy, or for about five seconds.
fn retry<T>(mut bind: impl FnMut() -> Result<T, BindError>) -> Result<T, BindError> {
    for _ in 0..BIND_ATTEMPTS_MAX {
        match bind() {
            Err(BindError::Busy) => thread::sleep(BIND_PAUSE),
            result => return result,
        }
    }
    Err(BindError::Busy)
}
