//! The two `bpf(2)` commands that aya keeps to itself: a program's descriptor by id, and its name.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `BPF_PROG_GET_FD_BY_ID` (`include/uapi/linux/bpf.h`, Linux 6.12).
const PROG_GET_FD_BY_ID: libc::c_long = 13;
/// `BPF_OBJ_GET_INFO_BY_FD`.
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `BPF_PROG_TYPE_XDP`.
const PROG_TYPE_XDP: u32 = 6;
const NAME_LEN: usize = 16;

/// `union bpf_attr`, the part for PROG_GET_FD_BY_ID.
#[repr(C)]
struct ByIdAttribute {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// `union bpf_attr`, the part for OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoAttribute {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited_insns: u64,
    xlated_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    map_ids_count: u32,
    map_ids: u64,
    name: [u8; NAME_LEN],
}

const _: () = assert!(offset_of!(ProgramInfo, name) == 64);
const _: () = assert!(size_of::<ProgramInfo>() == 80);

/// A program that somebody loaded.
#[derive(Debug)]
pub(super) struct KernelProgram {
    pub(super) fd: OwnedFd,
    pub(super) name: String,
    pub(super) is_xdp: bool,
}

impl KernelProgram {
    /// Gets a program by its id. Needs CAP_SYS_ADMIN, whatever else the process may.
    pub(super) fn by_id(id: u32) -> io::Result<Self> {
        let mut attribute = ByIdAttribute {
            prog_id: id,
            next_id: 0,
            open_flags: 0,
        };
        // SAFETY: the attribute is valid for its size, and this command writes nothing.
        let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attribute) }?;
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let info = info(&fd)?;
        let end = info
            .name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(NAME_LEN);
        let name = String::from_utf8_lossy(info.name.get(..end).unwrap_or(&[])).into_owned();
        Ok(Self {
            fd,
            name,
            is_xdp: info.kind == PROG_TYPE_XDP,
        })
    }
}

fn info(fd: &OwnedFd) -> io::Result<ProgramInfo> {
    let mut info = ProgramInfo::default();
    let mut attribute = InfoAttribute {
        bpf_fd: fd.as_fd().as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<ProgramInfo>()).unwrap_or(0),
        info: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which is that long, all
    // integers, and stays in place during the call. Its array pointers are zero: none is filled.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attribute) }?;
    Ok(info)
}

/// # Safety
/// `attribute` must be what `command` expects, and the memory it points to valid for it.
unsafe fn bpf<T>(command: libc::c_long, attribute: &mut T) -> io::Result<libc::c_int> {
    let pointer: *mut T = attribute;
    // SAFETY: valid for `size_of::<T>()` bytes; what it leads to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(|_overflow| io::Error::from(io::ErrorKind::InvalidData))
}
