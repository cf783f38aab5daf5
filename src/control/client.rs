//! The command line's side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
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
    /// The gateway went away, or what answered is no gateway.
    #[error("the gateway's answer could not be read: {0}")]
    BadAnswer(String),
    /// The gateway refused the request.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to a running gateway.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

/// Most bytes of an answer (a listing of some ten million flows).
const ANSWER_BYTES_MAX: u64 = 4 << 30;
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
        Ok(Self { stream })
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn request<T: DeserializeOwned>(mut self, command: &Command) -> Result<T, ClientError> {
        let bad = |error: io::Error| ClientError::BadAnswer(error.to_string());
        let patience = match command {
            Command::Apply(apply) => ANSWER_PATIENCE + Duration::from_millis(apply.timeout_ms),
            _ => ANSWER_PATIENCE,
        };
        self.stream.set_read_timeout(Some(patience)).map_err(bad)?;
        let mut line = serde_json::to_string(command)
            .map_err(|error| ClientError::BadAnswer(error.to_string()))?;
        line.push('\n');
        self.stream.write_all(line.as_bytes()).map_err(bad)?;
        self.stream.shutdown(Shutdown::Write).map_err(bad)?;
        let mut answer = String::new();
        BufReader::new(self.stream.take(ANSWER_BYTES_MAX))
            .read_line(&mut answer)
            .map_err(bad)?;
        parse_answer(&answer)
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
