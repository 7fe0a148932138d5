//! Bodies arrive in a bounded time and size, or the connection ends.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::reply::Refusal;
use crate::Denial;

/// From a request's headers to the end of its body.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Whether there is no body, as Go's `ContentLength == 0` has it: a chunked one counts as a body even if it is empty.
pub(super) fn is_absent(body: &Body) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}

/// The whole body. One that announces too much is refused unread.
pub(super) async fn read(body: Body, max: usize) -> Result<Bytes, Refusal> {
    read_within(body, max, BODY_WITHIN).await
}

async fn read_within(body: Body, max: usize, limit: Duration) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::Denied(Denial::RequestTooLarge { max });
    if usize::try_from(body.size_hint().lower()).map_or(true, |announced| announced > max) {
        return Err(too_large());
    }
    match tokio::time::timeout(limit, Limited::new(body, max).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::CutOff),
        Err(_elapsed) => Err(Refusal::TooSlow),
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn streamed(chunks: Vec<&'static str>) -> Body {
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn bodies_are_bounded_in_size_and_time() {
        assert_eq!(read(streamed(vec!["ab", "cd"]), 4).await.unwrap(), "abcd");
        assert!(matches!(read(streamed(vec!["ab", "cd", "e"]), 4).await, Err(Refusal::Denied(Denial::RequestTooLarge { max: 4 }))));
        assert!(matches!(read(Body::from("abcde"), 4).await, Err(Refusal::Denied(Denial::RequestTooLarge { max: 4 }))));
        let endless = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert!(matches!(read_within(endless, 4, Duration::from_millis(10)).await, Err(Refusal::TooSlow)));
        let broken = Body::from_stream(stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]));
        assert!(matches!(read(broken, 4).await, Err(Refusal::CutOff)));
    }

    #[test]
    fn only_a_length_of_zero_is_no_body() {
        assert!(is_absent(&Body::empty()) && is_absent(&Body::from("")));
        assert!(!is_absent(&streamed(Vec::new())) && !is_absent(&Body::from("a")));
    }
}
