//! The policy file as a source of changes: written and closed, or replaced by a rename.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, info, warn};

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

/// How often a folder that went away is looked for.
const FOLDER_PERIOD: Duration = Duration::from_secs(1);

/// Calls `changed` on a thread of its own, whenever the file was written and closed or replaced,
/// once it has settled. Watches folders, so that a rename over the file is seen too: the file's
/// own, and where that is a symbolic link the folder of what it leads to.
///
/// # Errors
/// Where the system gives no watch or thread.
pub fn watch_file(path: &Path, changed: impl Fn() + Send + 'static) -> Result<(), WatchError> {
    let failed = |source| WatchError {
        path: path.to_path_buf(),
        source,
    };
    let mut watch = Watch {
        inotify: Inotify::init().map_err(failed)?,
        path: path.to_path_buf(),
        seen: None,
    };
    watch.renew().map_err(failed)?;
    let body = move || {
        loop {
            watch.wait_for_change();
            changed();
        }
    };
    thread::Builder::new()
        .name("policy-watch".to_owned())
        .spawn(body)
        .map_err(failed)?;
    Ok(())
}

struct Watch {
    inotify: Inotify,
    path: PathBuf,
    /// What the path led to when last looked at; `None` where it led nowhere.
    seen: Option<Version>,
}

/// Tells one content of a file from another: device, inode, length, time of the last change.
type Version = (u64, u64, u64, i64, i64);

/// What may have become of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Nothing,
    Something,
    /// A folder is watched no more.
    FolderLost,
}

impl Watch {
    /// Watches the folders that the path leads through now.
    fn renew(&mut self) -> io::Result<()> {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVE_SELF
            | WatchMask::DELETE_SELF
            | WatchMask::ONLYDIR;
        self.inotify.watches().add(folder(&self.path), mask)?;
        // Adding the same folder again changes nothing.
        if let Ok(target) = fs::canonicalize(&self.path) {
            self.inotify.watches().add(folder(&target), mask)?;
        }
        // Last: what is written from here on has its event.
        self.seen = version(&self.path);
        Ok(())
    }

    /// Returns when the file is another, or was written, and has settled.
    fn wait_for_change(&mut self) {
        loop {
            if !wait(&self.inotify, None) {
                continue;
            }
            let mut event = self.take_events();
            for _ in 0..SETTLES_MAX {
                if !wait(&self.inotify, Some(SETTLE)) {
                    break;
                }
                event = event.max(self.take_events());
            }
            let before = self.seen;
            if event == Event::FolderLost {
                self.find_folder();
            }
            // A symbolic link may lead elsewhere now.
            if let Err(error) = self.renew() {
                warn!(%error, path = %self.path.display(), "the policy file is not watched");
            }
            if self.seen.is_some() && self.seen != before {
                return;
            }
        }
    }

    /// Waits until there is a folder of the path's name again.
    fn find_folder(&mut self) {
        if self.renew().is_ok() {
            return;
        }
        let text = "the folder of the policy file is gone; it is looked for";
        warn!(path = %self.path.display(), "{text}");
        // Bound: none; the thread has nothing else to do.
        while let Err(error) = self.renew() {
            debug!(%error, path = %self.path.display(), "not yet");
            thread::sleep(FOLDER_PERIOD);
        }
        info!(path = %self.path.display(), "the folder of the policy file is watched again");
    }

    /// Reads what happened.
    fn take_events(&mut self) -> Event {
        let mut buffer = [0; 4096];
        let lost = EventMask::IGNORED | EventMask::MOVE_SELF | EventMask::DELETE_SELF;
        match self.inotify.read_events(&mut buffer) {
            // Whatever was written in these folders, the file's version says whether it was that.
            Ok(events) => events
                .map(|event| {
                    if event.mask.intersects(lost) {
                        Event::FolderLost
                    } else {
                        Event::Something
                    }
                })
                .max()
                .unwrap_or(Event::Nothing),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Event::Nothing,
            Err(error) => {
                warn!(%error, "the policy file's watch could not be read");
                Event::Something
            }
        }
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn version(path: &Path) -> Option<Version> {
    let found = fs::metadata(path).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.len(),
        found.ctime(),
        found.ctime_nsec(),
    ))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A folder that goes with the test, and the changes that are seen of `policy.toml` in it.
    struct Watched {
        root: PathBuf,
        changes: Receiver<()>,
    }

    impl Watched {
        fn new(name: &str, prepare: impl FnOnce(&Path)) -> Self {
            let root = std::env::temp_dir().join(format!("watch-{name}-{}", std::process::id()));
            fs::create_dir_all(root.join("etc")).unwrap();
            prepare(&root);
            let (sender, changes) = channel();
            let changed = move || sender.send(()).unwrap_or_default();
            watch_file(&root.join("etc/policy.toml"), changed).unwrap();
            Self { root, changes }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.join(name)
        }

        #[track_caller]
        fn sees_one_change(&self) {
            self.changes
                .recv_timeout(Duration::from_secs(20))
                .expect("the change is seen");
            self.sees_nothing();
        }

        #[track_caller]
        fn sees_nothing(&self) {
            let seen = self.changes.recv_timeout(SETTLE * 5);
            assert!(seen.is_err(), "nothing more was changed");
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.root));
        }
    }

    #[test]
    fn a_write_a_rename_and_a_return_are_seen_once_each() {
        let watched = Watched::new("write", |root| {
            fs::write(root.join("etc/policy.toml"), "a").unwrap();
        });
        let policy = watched.path("etc/policy.toml");
        fs::write(&policy, "b").unwrap();
        watched.sees_one_change();
        fs::write(watched.path("etc/other.toml"), "b").unwrap();
        watched.sees_nothing();
        fs::rename(watched.path("etc/other.toml"), &policy).unwrap();
        watched.sees_one_change();
        fs::remove_file(&policy).unwrap();
        watched.sees_nothing();
        fs::write(&policy, "c").unwrap();
        watched.sees_one_change();
    }

    #[test]
    fn what_a_symbolic_link_leads_to_is_watched() {
        let watched = Watched::new("link", |root| {
            for (folder, text) in [("one", "1"), ("two", "2")] {
                fs::create_dir(root.join(folder)).unwrap();
                fs::write(root.join(folder).join("policy.toml"), text).unwrap();
            }
            symlink("../one", root.join("etc/data")).unwrap();
            symlink("data/policy.toml", root.join("etc/policy.toml")).unwrap();
        });
        fs::write(watched.path("one/policy.toml"), "1b").unwrap();
        watched.sees_one_change();
        symlink("../two", watched.path("etc/new")).unwrap();
        fs::rename(watched.path("etc/new"), watched.path("etc/data")).unwrap();
        watched.sees_one_change();
        fs::write(watched.path("two/policy.toml"), "2b").unwrap();
        watched.sees_one_change();
    }

    #[test]
    fn a_folder_that_is_replaced_is_watched_again() {
        let watched = Watched::new("folder", |root| {
            fs::write(root.join("etc/policy.toml"), "a").unwrap();
        });
        fs::rename(watched.path("etc"), watched.path("old")).unwrap();
        fs::create_dir(watched.path("etc")).unwrap();
        fs::write(watched.path("etc/policy.toml"), "b").unwrap();
        watched.sees_one_change();
        fs::write(watched.path("etc/policy.toml"), "c").unwrap();
        watched.sees_one_change();
    }
}
