//! The connection to the kernel: one request and its answer, and failed requests.

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, TryStreamExt};
use rtnetlink::Handle;
use tokio::sync::Mutex;

/// The kernel answers within microseconds. Without a limit, it would wait forever for an answer
/// that the library cannot read.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// A connection to the kernel for requests.
#[derive(Debug, Clone)]
pub struct Netlink {
    pub(super) handle: Handle,
    /// Locked while a list is read: the kernel sends a socket one list at a time.
    listing: Arc<Mutex<()>>,
}

/// A failed request.
#[derive(Debug)]
pub struct RequestError {
    request: String,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Kernel(i32),
    Connection(String),
}

impl Netlink {
    /// Opens a connection in the calling thread's network namespace. Must be called from within
    /// a tokio runtime, which carries it.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn connect() -> Result<Self, RequestError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| {
            let cause = match error.raw_os_error() {
                Some(errno) => Cause::Kernel(errno),
                None => Cause::Connection(error.to_string()),
            };
            RequestError {
                request: "open a netlink socket".to_owned(),
                cause,
            }
        })?;
        // It ends with the last handle.
        tokio::spawn(connection);
        Ok(Self {
            handle,
            listing: Arc::default(),
        })
    }

    /// Reads a list. If its reader was cancelled, the connection still reads the rest, and the
    /// kernel is busy until then.
    pub(super) async fn list<T, S>(
        &self,
        request: &str,
        start: impl Fn() -> S,
    ) -> Result<Vec<T>, RequestError>
    where
        S: Stream<Item = Result<T, rtnetlink::Error>>,
    {
        let _listing = self.listing.lock().await;
        let started = Instant::now();
        loop {
            match collect(request, start()).await {
                Err(error)
                    if error.errno() == Some(libc::EBUSY) && started.elapsed() < ANSWER_LIMIT =>
                {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                result => return result,
            }
        }
    }
}

impl RequestError {
    /// The kernel's error number, if it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self.cause {
            Cause::Kernel(errno) => Some(errno),
            Cause::Connection(_) => None,
        }
    }

    fn new(request: &str, error: &rtnetlink::Error) -> Self {
        let cause = match error {
            rtnetlink::Error::NetlinkError(message) => Cause::Kernel(message.raw_code().abs()),
            other => Cause::Connection(other.to_string()),
        };
        Self {
            request: request.to_owned(),
            cause,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = &self.request;
        match &self.cause {
            Cause::Kernel(errno) => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, "{request}: {error}")?;
                if matches!(*errno, libc::EPERM | libc::EACCES) {
                    write!(f, "; needs CAP_NET_ADMIN")?;
                }
                Ok(())
            }
            Cause::Connection(text) => write!(f, "{request}: {text}"),
        }
    }
}

impl std::error::Error for RequestError {}

pub(super) async fn answer(
    request: &str,
    pending: impl Future<Output = Result<(), rtnetlink::Error>>,
) -> Result<(), RequestError> {
    match tokio::time::timeout(ANSWER_LIMIT, pending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(RequestError::new(request, &error)),
        Err(_) => Err(no_answer(request)),
    }
}

pub(super) async fn collect<T>(
    request: &str,
    messages: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, RequestError> {
    match tokio::time::timeout(ANSWER_LIMIT, messages.try_collect()).await {
        Ok(Ok(messages)) => Ok(messages),
        Ok(Err(error)) => Err(RequestError::new(request, &error)),
        Err(_) => Err(no_answer(request)),
    }
}

fn no_answer(request: &str) -> RequestError {
    RequestError {
        request: request.to_owned(),
        cause: Cause::Connection(format!(
            "no answer from the kernel in {} s",
            ANSWER_LIMIT.as_secs()
        )),
    }
}
