//! The policy file as a source of changes: written and closed, or replaced by a rename.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::warn;

/// A file counts as written when nothing has touched it for so long.
const SETTLE: Duration = Duration::from_millis(100);
/// A file that is written without a pause is read all the same after so many settling times.
const SETTLES_MAX: u32 = 50;

/// The file cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}: {source}")]
pub struct WatchError {
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

/// Calls `changed` on a thread of its own, whenever the file was written and closed or replaced,
/// once it has settled. Watches the folder, so that a rename over the file is seen too.
///
/// # Errors
/// Where the system gives no watch or thread.
pub fn watch_file(path: &Path, changed: impl Fn() + Send + 'static) -> Result<(), WatchError> {
    let failed = |source| WatchError {
        path: path.to_path_buf(),
        source,
    };
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name().map(OsStr::to_owned) else {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a file's path",
        )));
    };
    let mut inotify = Inotify::init().map_err(failed)?;
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO;
    inotify.watches().add(folder, mask).map_err(failed)?;
    let watch = move || {
        let mut buffer = [0; 4096];
        loop {
            if wait(&inotify, None) && has_event(&mut inotify, &mut buffer, &name) {
                for _ in 0..SETTLES_MAX {
                    if !wait(&inotify, Some(SETTLE)) {
                        break;
                    }
                    has_event(&mut inotify, &mut buffer, &name);
                }
                changed();
            }
        }
    };
    thread::Builder::new()
        .name("policy-watch".to_owned())
        .spawn(watch)
        .map_err(failed)?;
    Ok(())
}

/// Waits for an event; `false` after `timeout` without one.
fn wait(inotify: &Inotify, timeout: Option<Duration>) -> bool {
    let timeout = timeout.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    let mut fds = [PollFd::from_borrowed_fd(inotify.as_fd(), PollFlags::IN)];
    match poll(&mut fds, timeout.as_ref()) {
        Ok(ready) => ready > 0,
        Err(rustix::io::Errno::INTR) => true,
        Err(error) => {
            warn!(%error, "the policy file is not watched for a moment");
            thread::sleep(Duration::from_secs(1));
            false
        }
    }
}

/// Reads what happened; whether any of it was about the file.
fn has_event(inotify: &mut Inotify, buffer: &mut [u8], name: &OsStr) -> bool {
    match inotify.read_events(buffer) {
        Ok(events) => events.filter(|event| event.name == Some(name)).count() > 0,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => {
            warn!(%error, "the policy file's watch could not be read");
            false
        }
    }
}
