//! The connection from a command to the running daemon: the socket `control.sock` in the run
//! directory.
//!
//! Each line is a JSON object: a [`Request`] in one direction and a [`Response`] in the other. A
//! misbehaving peer does not affect the daemon: every connection has its own task, with limits on
//! time and size, and only complete requests reach the daemon. The daemon decides what a request
//! means.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream as BlockingStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

const SOCKET: &str = "control.sock";
const NEW_SOCKET: &str = "control.sock.new";

/// How long a peer may take to send a line.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long a peer may take to receive a line, which the daemon may wait for.
const RESPONSE_LIMIT: Duration = Duration::from_secs(2);
/// How long a line from a peer may be in bytes.
const LINE_LIMIT: u64 = 64 << 10;
/// How many peers the daemon serves at once.
const PEERS_MAX: usize = 64;
/// How long a command waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// How long the daemon waits if it cannot accept a connection because it has no free file
/// descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a command requests from the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// Read the configuration again.
    Reload,
    /// Remove everything and stop.
    Down,
    /// Record that sessions were ended by a command.
    Flushed {
        /// How many.
        ended: u32,
    },
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredResponse", into = "StoredResponse")]
pub enum Response {
    /// It succeeded.
    Done {
        /// What to print.
        lines: Vec<String>,
    },
    /// It was refused or failed.
    Refused {
        /// The reason, and what to do about it.
        error: String,
    },
}

/// [`Response`] on the wire.
#[derive(Serialize, Deserialize)]
struct StoredResponse {
    ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lines: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A request and the channel for its answer.
#[derive(Debug)]
pub struct Incoming {
    /// The request.
    pub request: Request,
    /// Where the answer goes.
    pub reply: Reply,
}

/// The channel back to a peer, which may have gone in the meantime. If it is dropped without an
/// answer, the peer reads that the daemon is stopping.
#[derive(Debug)]
pub struct Reply {
    to: oneshot::Sender<(Response, oneshot::Sender<()>)>,
}

/// The daemon's end. The socket goes with it.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    incoming: mpsc::Receiver<Incoming>,
    acceptor: JoinHandle<()>,
}

impl Response {
    /// From the result of a request.
    #[must_use]
    pub fn from_result(result: Result<Vec<String>, &anyhow::Error>) -> Self {
        match result {
            Ok(lines) => Self::Done { lines },
            Err(error) => Self::Refused {
                error: format!("{error:#}"),
            },
        }
    }

    /// What to print, or why it was refused.
    ///
    /// # Errors
    /// When it was refused.
    pub fn into_result(self) -> Result<Vec<String>> {
        match self {
            Self::Done { lines } => Ok(lines),
            Self::Refused { error } => Err(anyhow!(error)),
        }
    }
}

impl TryFrom<StoredResponse> for Response {
    type Error = &'static str;

    fn try_from(stored: StoredResponse) -> Result<Self, Self::Error> {
        match stored {
            StoredResponse {
                ok: true, lines, ..
            } => Ok(Self::Done {
                lines: lines.unwrap_or_default(),
            }),
            StoredResponse {
                error: Some(error), ..
            } => Ok(Self::Refused { error }),
            StoredResponse { .. } => Err("a refusal without a reason"),
        }
    }
}

impl From<Response> for StoredResponse {
    fn from(response: Response) -> Self {
        match response {
            Response::Done { lines } => Self {
                ok: true,
                lines: Some(lines),
                error: None,
            },
            Response::Refused { error } => Self {
                ok: false,
                lines: None,
                error: Some(error),
            },
        }
    }
}

impl Reply {
    /// Answers, and waits until the answer is sent or the peer has gone or timed out, so the daemon
    /// may end afterwards. Spawn it to continue in the meantime.
    pub async fn send(self, response: Response) {
        let (done, written) = oneshot::channel();
        if self.to.send((response, done)).is_ok() {
            // An error means that it could not be written, which concerns only the peer.
            let _ = written.await;
        }
    }
}

impl ControlServer {
    /// Opens the socket, within a tokio runtime. It replaces an existing one: the caller holds the
    /// run directory's lock, so no daemon serves that socket.
    ///
    /// # Errors
    /// When the socket cannot be created.
    pub fn bind(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(SOCKET);
        let listener = bind(&run_dir.join(NEW_SOCKET), &path)
            .with_context(|| format!("open the control socket {}", path.display()))?;
        let (sender, incoming) = mpsc::channel(1);
        let acceptor = tokio::spawn(accept_peers(listener, sender));
        Ok(Self {
            path,
            incoming,
            acceptor,
        })
    }

    /// The next request. Safe to cancel.
    pub async fn accept(&mut self) -> Incoming {
        match self.incoming.recv().await {
            Some(incoming) => incoming,
            // The task that feeds this never ends by itself.
            None => std::future::pending().await,
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.acceptor.abort();
        // If it cannot be removed, commands find that no daemon listens.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The socket appears under its name with the right mode and replaces a stale one.
fn bind(new: &Path, path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(new)?;
    std::fs::set_permissions(new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(new, path)?;
    Ok(listener)
}

async fn accept_peers(listener: UnixListener, requests: mpsc::Sender<Incoming>) {
    let places = Arc::new(Semaphore::new(PEERS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("control socket: accept: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without a free place the connection is closed at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            log::warn!("control socket: more than {PEERS_MAX} connections; closed one");
            continue;
        };
        let requests = requests.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_peer(stream, requests).await {
                log::debug!("control socket: {error:#}");
            }
            drop(place);
        });
    }
}

/// Serves the requests of one peer, one after the other, until it closes or misbehaves.
async fn serve_peer(stream: UnixStream, requests: mpsc::Sender<Incoming>) -> Result<()> {
    let (input, mut output) = stream.into_split();
    let mut input = tokio::io::BufReader::new(input);
    loop {
        let request = match read_request(&mut input).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                let response = Response::Refused {
                    error: format!("{error:#}"),
                };
                write_response(&mut output, response).await?;
                return Err(error);
            }
        };
        let (to, answer) = oneshot::channel();
        let incoming = Incoming {
            request,
            reply: Reply { to },
        };
        if requests.send(incoming).await.is_err() {
            return write_response(&mut output, stopping()).await;
        }
        match answer.await {
            Ok((response, done)) => {
                write_response(&mut output, response).await?;
                // The peer may no longer wait for it.
                let _ = done.send(());
            }
            Err(_) => return write_response(&mut output, stopping()).await,
        }
    }
}

fn stopping() -> Response {
    Response::Refused {
        error: "natbpf is stopping; try again when it runs".to_owned(),
    }
}

/// The peer's next request, `None` once it has closed.
async fn read_request(input: &mut tokio::io::BufReader<OwnedReadHalf>) -> Result<Option<Request>> {
    let mut line = Vec::new();
    let mut input = input.take(LINE_LIMIT);
    timeout(REQUEST_LIMIT, input.read_until(b'\n', &mut line))
        .await
        .map_err(|_| anyhow!("no request within {} s", REQUEST_LIMIT.as_secs()))??;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        if line.len() as u64 == LINE_LIMIT {
            bail!("the request is longer than {LINE_LIMIT} bytes");
        }
        bail!("the request ends without a newline");
    }
    let request = serde_json::from_slice(&line).context("not a natbpf request")?;
    Ok(Some(request))
}

async fn write_response(output: &mut OwnedWriteHalf, response: Response) -> Result<()> {
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    timeout(RESPONSE_LIMIT, output.write_all(&line))
        .await
        .map_err(|_| anyhow!("the client does not read the answer"))??;
    Ok(())
}

/// Whether a daemon serves the run directory.
#[must_use]
pub fn is_running(run_dir: &Path) -> bool {
    BlockingStream::connect(run_dir.join(SOCKET)).is_ok()
}

/// Sends a request to the daemon and waits for its answer.
///
/// # Errors
/// When no daemon runs there, or it does not answer. A refusal is a [`Response`].
pub fn request(run_dir: &Path, request: Request) -> Result<Response> {
    let path = run_dir.join(SOCKET);
    let stream = BlockingStream::connect(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
            "natbpf is not running (no control socket in {}); start it with natbpf run",
            run_dir.display()
        ),
        io::ErrorKind::PermissionDenied => {
            anyhow!("no access to {}; run this as root", path.display())
        }
        _ => anyhow!("connect to {}: {error}", path.display()),
    })?;
    exchange(stream, request).with_context(|| format!("ask natbpf by {}", path.display()))
}

fn exchange(mut stream: BlockingStream, request: Request) -> Result<Response> {
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(REQUEST_LIMIT))?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    match BufReader::new(stream).read_until(b'\n', &mut answer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            bail!(
                "no answer within {} s; see the daemon's log",
                ANSWER_LIMIT.as_secs()
            )
        }
        Err(error) => return Err(error.into()),
        Ok(0) => bail!("the daemon closed the connection without an answer; see its log"),
        Ok(_) => {}
    }
    serde_json::from_slice(&answer).context("the answer is not one of natbpf's")
}

#[cfg(test)]
mod tests;
