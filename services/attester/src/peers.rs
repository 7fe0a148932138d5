//! Who is at the other end of the Unix socket. The socket's mode keeps others out; the kernel's word about the caller is
//! the second lock, for a socket whose mode somebody widened.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;

/// After a connection could not be accepted: callers that hold every file descriptor of the process make `accept` fail at
/// once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The user ids that may call.
#[derive(Clone, Debug)]
pub(crate) struct Callers {
    allowed: Arc<BTreeSet<u32>>,
}

impl Callers {
    /// Our own user, and those configured.
    pub(crate) fn new(configured: &[u32]) -> Self {
        let own = rustix::process::getuid().as_raw();
        Self { allowed: Arc::new(configured.iter().copied().chain([own]).collect()) }
    }

    /// Connections of allowed users; all others are closed unanswered. Never an error and never at an end: tonic stops
    /// serving for good at the first error that is not the connection's own.
    pub(crate) fn incoming(self, listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
        futures::stream::unfold((self, listener), async |(callers, listener)| {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) if callers.admit(&stream) => return Some((Ok(stream), (callers, listener))),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a caller could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        })
    }

    fn admit(&self, stream: &UnixStream) -> bool {
        let uid = stream.peer_cred().map(|credentials| credentials.uid());
        match uid {
            Ok(uid) if self.allowed.contains(&uid) => true,
            Ok(uid) => {
                tracing::warn!(uid, "refused a caller of another user");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "refused a caller whose user is unknown");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn only_allowed_users_get_through() {
        let directory = tempfile::tempdir().unwrap();
        for (allowed, gets_through) in [(vec![rustix::process::getuid().as_raw()], true), (vec![4_000_000_000], false)] {
            let path = directory.path().join(format!("{gets_through}"));
            let listener = UnixListener::bind(&path).unwrap();
            let callers = Callers { allowed: Arc::new(allowed.into_iter().collect()) };
            let _client = UnixStream::connect(&path).await.unwrap();
            let mut incoming = Box::pin(callers.incoming(listener));
            let next = tokio::time::timeout(Duration::from_millis(200), incoming.next()).await;
            assert_eq!(next.is_ok(), gets_through);
        }
    }
}
