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
    stream: BufReader<UnixStream>,
}

/// Most requests that are sent ahead of their answers: their answers fit the socket's buffer, so
/// that neither side waits for the other to read.
const AHEAD_MAX: usize = 256;
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
        let stream = BufReader::new(stream);
        Ok(Self { path, stream })
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn request<T: DeserializeOwned>(&mut self, command: &Command) -> Result<T, ClientError> {
        let sent = self.send(command);
        // A gateway that refuses to listen says why, and closes.
        match self.receive(patience(command)) {
            Err(ClientError::Closed(_)) => sent.and(Err(ClientError::Closed(self.path.clone()))),
            received => parse_answer(&received?),
        }
    }

    /// Sends many requests, ahead of their answers, so that the gateway can carry them out
    /// together; an answer or refusal for each, in their order.
    ///
    /// # Errors
    /// See [`ClientError`], but for a refusal; what became of the others is not known then.
    pub fn request_all<T: DeserializeOwned>(
        &mut self,
        commands: &[Command],
    ) -> Result<Vec<Result<T, Refusal>>, ClientError> {
        let mut answers = Vec::with_capacity(commands.len());
        let mut sent = 0;
        for command in commands {
            while sent < commands.len() && sent - answers.len() < AHEAD_MAX {
                self.send(&commands[sent])?;
                sent += 1;
            }
            answers.push(match parse_answer(&self.receive(patience(command))?) {
                Ok(answer) => Ok(answer),
                Err(ClientError::Refused(refusal)) => Err(refusal),
                Err(error) => return Err(error),
            });
        }
        Ok(answers)
    }

    fn send(&mut self, command: &Command) -> Result<(), ClientError> {
        let mut line = serde_json::to_string(command)
            .map_err(|error| ClientError::BadAnswer(error.to_string()))?;
        line.push('\n');
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        sent.map_err(|error| self.failed(&error, ANSWER_PATIENCE))
    }

    /// The next line.
    fn receive(&mut self, patience: Duration) -> Result<String, ClientError> {
        let mut answer = String::new();
        let set = self.stream.get_ref().set_read_timeout(Some(patience));
        let read = set.and_then(|()| {
            let mut limited = self.stream.by_ref().take(ANSWER_BYTES_MAX);
            limited.read_line(&mut answer)
        });
        match read {
            Ok(0) => Err(ClientError::Closed(self.path.clone())),
            Ok(_) => Ok(answer),
            Err(error) => Err(self.failed(&error, patience)),
        }
    }

    fn failed(&self, error: &io::Error, patience: Duration) -> ClientError {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Silent {
                path: self.path.clone(),
                patience,
            },
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                ClientError::Closed(self.path.clone())
            }
            _ => ClientError::BadAnswer(error.to_string()),
        }
    }
}

/// How long an answer may take.
fn patience(command: &Command) -> Duration {
    let timeout_ms = match command {
        Command::Apply(request) => request.timeout_ms,
        Command::RuleAdd(request) => request.timeout_ms,
        Command::RuleRemove(request) => request.timeout_ms,
        Command::Rollback(request) => request.timeout_ms,
        _ => 0,
    };
    ANSWER_PATIENCE.saturating_add(Duration::from_millis(timeout_ms))
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
