//! The command line's side of the control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::command::{Command, Refusal};

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("no gateway answers at {path}: {source}")]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It accepts connections, and does not answer.
    #[error(
        "the gateway at {path} did not answer within {patience:?}: it is stopped, or overloaded"
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
    /// It ended, or had not quite begun.
    #[error("the gateway at {0} closed the connection without an answer: it has ended")]
    Closed(PathBuf),
    /// What answered is no gateway, or the connection broke.
    #[error("the gateway's answer could not be read: {0}")]
    BadAnswer(String),
    /// The gateway refused the request.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to a running gateway.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
}

/// Most bytes of an answer: the longest is the list of what a large policy changes.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// Beyond what a request itself asks to wait for.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

impl Client {
    /// Connects to a gateway's control socket.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`] where nobody listens.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let no_answer = |source| ClientError::NoAnswer {
            path: path.to_path_buf(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(no_answer)?;
        stream
            .set_write_timeout(Some(ANSWER_PATIENCE))
            .map_err(no_answer)?;
        let path = path.to_path_buf();
        Ok(Self { path, stream })
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn request<T: DeserializeOwned>(&mut self, command: &Command) -> Result<T, ClientError> {
        let patience = match command {
            Command::Apply(apply) => ANSWER_PATIENCE + Duration::from_millis(apply.timeout_ms),
            _ => ANSWER_PATIENCE,
        };
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Silent {
                path: self.path.clone(),
                patience,
            },
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                ClientError::Closed(self.path.clone())
            }
            _ => ClientError::BadAnswer(error.to_string()),
        };
        self.stream
            .set_read_timeout(Some(patience))
            .map_err(failed)?;
        let mut line = serde_json::to_string(command)
            .map_err(|error| ClientError::BadAnswer(error.to_string()))?;
        line.push('\n');
        let sent = (&self.stream).write_all(line.as_bytes());
        // A gateway that refuses to listen says why, and closes.
        let mut answer = String::new();
        let read = BufReader::new((&self.stream).take(ANSWER_BYTES_MAX)).read_line(&mut answer);
        match (sent, read) {
            (_, Ok(len)) if len > 0 => parse_answer(&answer),
            (Err(error), _) | (Ok(()), Err(error)) => Err(failed(error)),
            (Ok(()), Ok(_)) => Err(ClientError::Closed(self.path.clone())),
        }
    }
}

fn parse_answer<T: DeserializeOwned>(answer: &str) -> Result<T, ClientError> {
    let bad = |error: serde_json::Error| ClientError::BadAnswer(error.to_string());
    let mut answer: Value = serde_json::from_str(answer).map_err(bad)?;
    if let Some(error) = answer.get_mut("error") {
        let refusal: Refusal = serde_json::from_value(error.take()).map_err(bad)?;
        return Err(refusal.into());
    }
    let Some(ok) = answer.get_mut("ok") else {
        return Err(ClientError::BadAnswer("neither ok nor error".to_owned()));
    };
    serde_json::from_value(ok.take()).map_err(bad)
}
