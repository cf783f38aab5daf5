//! System calls with their result as [`io::Result`]: the smallest wrappers that make the rest of
//! this module read like safe code.
#![expect(unsafe_code, reason = "system calls that no safe wrapper offers")]

use std::ffi::c_int;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// Types without padding, whose every bit pattern is a value.
///
/// # Safety
/// Implement it for such types only: the kernel reads and writes them as bytes.
pub(super) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        // SAFETY: `repr(C)` integers without padding (their sizes are asserted in `abi`).
        $(unsafe impl Plain for $type {})+
    };
}
plain!(
    u32,
    super::abi::SockaddrXdp,
    super::abi::UmemRegistration,
    super::abi::MmapOffsets,
    super::abi::XdpStatistics,
);

/// Turns a C result into one of Rust's.
pub(super) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The size of a structure as system calls want it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "sizes of structures of this module, far below 4 GiB"
)]
const fn size_u32<T>() -> u32 {
    size_of::<T>() as u32
}

/// `socket(2)`, closed on exec.
pub(super) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt(2)` with a plain value.
pub(super) fn set_option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    let pointer: *const T = value;
    // SAFETY: the pointer is valid for `size_of::<T>()` bytes while the call lasts.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer.cast(), size_u32::<T>()) };
    check(result).map(drop)
}

/// `getsockopt(2)` of a plain value; what an older kernel leaves out keeps its default.
pub(super) fn option<T: Plain + Default>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_u32::<T>();
    let pointer: *mut T = &raw mut value;
    // SAFETY: `value` is valid for `len` bytes, and any bytes are a value of a `Plain` type.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, pointer.cast(), &raw mut len) };
    check(result)?;
    Ok(value)
}

/// `bind(2)` to a device queue.
pub(super) fn bind_xdp(fd: BorrowedFd<'_>, address: &super::abi::SockaddrXdp) -> io::Result<()> {
    let pointer: *const super::abi::SockaddrXdp = address;
    // SAFETY: the address is valid for its size while the call lasts.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            pointer.cast(),
            size_u32::<super::abi::SockaddrXdp>(),
        )
    };
    check(result).map(drop)
}

/// `sendto(2)` without data: asks the kernel to look at the TX ring.
#[inline]
pub(super) fn kick_transmit(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a null buffer of length 0 and no address are what AF_XDP expects here.
    let result = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `recvfrom(2)` without data: asks the kernel to look at the fill ring.
#[inline]
pub(super) fn kick_receive(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a null buffer of length 0 and no address are what AF_XDP expects here.
    let result = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `send(2)`.
pub(super) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for its length while the call lasts.
    let sent = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
}

/// `recv(2)`; with MSG_TRUNC, so that a message longer than the buffer is noticed.
pub(super) fn receive(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for writes of its length while the call lasts.
    let received = unsafe {
        libc::recv(
            fd.as_raw_fd(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            libc::MSG_TRUNC,
        )
    };
    usize::try_from(received).map_err(|_negative| io::Error::last_os_error())
}

/// The process at the other end of a connected Unix socket.
pub(super) fn peer_process(fd: BorrowedFd<'_>) -> io::Result<i32> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_u32::<libc::ucred>();
    // SAFETY: `credentials` is valid for `len` bytes and made of integers only.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    check(result)?;
    Ok(credentials.pid)
}

/// The limit of locked memory in bytes; `None` where it is unlimited or unknown.
pub(super) fn memlock_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writes.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// `SIOCETHTOOL` on a device with a command structure in `buffer`, which starts with the command.
///
/// The kernel writes no more than the command's structure and the item count in it allow: the
/// caller sizes `buffer` accordingly.
///
/// # Safety
/// `buffer` must be at least as long as what the kernel reads and writes for its command.
pub(super) unsafe fn ethtool(
    fd: BorrowedFd<'_>,
    device: &str,
    buffer: &mut [u8],
) -> io::Result<()> {
    /// `struct ifreq` with its pointer member.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        data: *mut u8,
        rest: [u8; 16],
    }
    const _: () = assert!(size_of::<Request>() >= size_of::<libc::ifreq>());
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        data: buffer.as_mut_ptr(),
        rest: [0; 16],
    };
    let bytes = device.as_bytes();
    let Some(name) = request
        .name
        .get_mut(..bytes.len())
        .filter(|n| n.len() < libc::IFNAMSIZ)
    else {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    };
    name.copy_from_slice(bytes);
    // SAFETY: the request is at least `struct ifreq` long, and the caller sized the buffer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) }).map(drop)
}

/// A shared mapping of one of a socket's rings.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; whoever reads or writes through
// `base` has to justify that at the place where it does.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` only gives away the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a file at `offset`, readable and writable, populated.
    pub(super) fn of_file(fd: BorrowedFd<'_>, len: usize, offset: i64) -> io::Result<Self> {
        Self::map(
            len,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            fd.as_raw_fd(),
            offset,
        )
    }

    /// Maps `len` bytes of anonymous memory with further `flags`.
    pub(super) fn anonymous(len: usize, flags: c_int) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags, -1, 0)
    }

    fn map(len: usize, flags: c_int, fd: c_int, offset: i64) -> io::Result<Self> {
        // SAFETY: without MAP_FIXED, and with no address, no existing mapping is touched.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::Other))?;
        Ok(Self { base, len })
    }

    /// `madvise(2)` on a part of the mapping.
    pub(super) fn advise(&self, start: usize, len: usize, advice: c_int) -> io::Result<()> {
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: `start` lies inside of the mapping, checked above.
        let address = unsafe { self.base.as_ptr().add(start) };
        // SAFETY: the range lies inside of the mapping. The advices used here (huge pages,
        // populate, do not dump, do not fork) leave its contents alone.
        check(unsafe { libc::madvise(address.cast(), len, advice) }).map(drop)
    }

    /// First byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours alone and was mapped in `map`; whoever holds pointers into it
        // also holds the `Mapping` (see `Ring` and `Umem`).
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(result, 0, "munmap of a mapping of our own");
    }
}
