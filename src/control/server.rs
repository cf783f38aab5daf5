//! The control socket: JSON lines in, JSON lines out, a thread a connection, few of them.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::Mode;
use serde_json::json;
use tracing::{debug, warn};

use super::answer::Answer;
use super::command::{Command, Refusal};
use super::controller::Controller;
use crate::clock::{MonotonicClock, Tick};
use crate::sync::{Arc, AtomicU32, Ordering};

/// Clients that are served at one time; more are told so and closed.
const CONNECTIONS_MAX: u32 = 32;
/// Most bytes of a request: a policy of some hundred thousand rules.
const REQUEST_BYTES_MAX: u64 = 64 << 20;
/// Bytes that are read at once; requests that are in them whole are taken together.
const READ_BYTES: usize = 64 << 10;
/// Most requests that are taken together.
const AHEAD_MAX: usize = 256;
/// A client that neither sends nor reads for so long is closed.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// And one that takes so long for one whole request or answer, byte by byte, is too.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(30);

/// Who may open the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOwner {
    /// User id; `None` = the gateway's.
    pub user: Option<u32>,
    /// Group id; `None` = the gateway's.
    pub group: Option<u32>,
    /// Permission bits.
    pub mode: u32,
}

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another gateway answers there.
    #[error("another gateway answers at {0}; stop it, or give this one its own control_socket")]
    InUse(PathBuf),
    /// Something that is no socket is there.
    #[error("{0} is there and is no socket; move it away, or choose another control_socket")]
    NoSocket(PathBuf),
    /// The system refused.
    #[error("cannot make the control socket {path}: {source}")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A socket that listens; removed when dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
}

impl Server {
    /// Makes the socket; one that a killed gateway left is replaced.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn bind(path: &Path, owner: SocketOwner) -> Result<Self, ServerError> {
        let io = |source| ServerError::Io {
            path: path.to_path_buf(),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ServerError::NoSocket(path.to_path_buf()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => return Err(ServerError::InUse(path.to_path_buf())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(io)?;
                }
                Err(error) => return Err(io(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        // The socket is made for its owner alone, and opened up only once it is whose it shall be.
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = bound.map_err(io)?;
        let server = Self {
            path: path.to_path_buf(),
            listener,
        };
        chown(path, owner.user, owner.group).map_err(io)?;
        fs::set_permissions(path, fs::Permissions::from_mode(owner.mode)).map_err(io)?;
        Ok(server)
    }

    /// Serves clients on a thread of its own for as long as the process lives.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn serve(&self, controller: Arc<Controller>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        let connections = Arc::new(AtomicU32::new(0));
        let accept = move || {
            loop {
                match listener.accept() {
                    Ok((stream, _)) => greet(stream, &controller, &connections),
                    Err(error) => {
                        warn!(%error, "a client of the control socket could not be accepted");
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        };
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(accept)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "the control socket was gone already");
        }
    }
}

fn greet(stream: UnixStream, controller: &Arc<Controller>, connections: &Arc<AtomicU32>) {
    if connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
        connections.fetch_sub(1, Ordering::Relaxed);
        let refusal = Refusal::new(format!(
            "{CONNECTIONS_MAX} clients are served already; try again when one has ended"
        ));
        // The buffer of a new connection has room for it: nobody is waited for.
        respond(&stream, &[Err(refusal)]);
        return;
    }
    let (controller, counted) = (Arc::clone(controller), Arc::clone(connections));
    let serve = move || {
        converse(&stream, &controller);
        counted.fetch_sub(1, Ordering::Relaxed);
    };
    if let Err(error) = thread::Builder::new()
        .name("client".to_owned())
        .spawn(serve)
    {
        connections.fetch_sub(1, Ordering::Relaxed);
        warn!(%error, "no thread for a client of the control socket");
    }
}

/// A client's connection for the time of one message, request or answer.
struct Message<'a> {
    stream: &'a UnixStream,
    clock: MonotonicClock,
}

impl<'a> Message<'a> {
    fn new(stream: &'a UnixStream) -> Self {
        Self {
            stream,
            clock: MonotonicClock::start(),
        }
    }

    /// How long the next step may take.
    fn patience(&self) -> io::Result<Option<Duration>> {
        let spent = self.clock.now().since(Tick::default());
        match MESSAGE_PATIENCE.checked_sub(spent) {
            Some(left) if !left.is_zero() => Ok(Some(left.min(CLIENT_PATIENCE))),
            _ => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
    }
}

impl Read for Message<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.patience()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Message<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.patience()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Answers a client's requests until it closes or errs. What a client has sent ahead is taken
/// together, so that changes of rules are published together.
fn converse(stream: &UnixStream, controller: &Controller) {
    let mut reader = BufReader::with_capacity(READ_BYTES, Message::new(stream));
    loop {
        reader.get_mut().clock = MonotonicClock::start();
        let mut commands = Vec::new();
        let mut is_refused = false;
        // The first is waited for.
        while commands.len() < AHEAD_MAX
            && !is_refused
            && (commands.is_empty() || reader.buffer().contains(&b'\n'))
        {
            let mut line = Vec::new();
            let read = reader
                .by_ref()
                .take(REQUEST_BYTES_MAX)
                .read_until(b'\n', &mut line);
            match read {
                Ok(0) | Err(_) => return,
                Ok(_) if line.len() as u64 >= REQUEST_BYTES_MAX => {
                    let refusal = format!("a request may have {REQUEST_BYTES_MAX} bytes at most");
                    commands.push(Err(Refusal::new(refusal)));
                    is_refused = true;
                }
                Ok(_) => commands.push(
                    serde_json::from_slice::<Command>(&line)
                        .map_err(|error| Refusal::new(format!("not a request: {error}"))),
                ),
            }
        }
        let is_read = controller.execute_all(commands, &mut |answers| respond(stream, answers));
        if !is_read || is_refused {
            return;
        }
    }
}

/// Writes answers; `false` where the client has gone.
fn respond(stream: &UnixStream, answers: &[Answer]) -> bool {
    let mut lines = String::new();
    for answer in answers {
        match answer {
            Ok(text) => {
                lines.push_str("{\"ok\":");
                lines.push_str(text);
                lines.push('}');
            }
            Err(refusal) => lines.push_str(&json!({ "error": refusal }).to_string()),
        }
        lines.push('\n');
    }
    Message::new(stream).write_all(lines.as_bytes()).is_ok()
}
