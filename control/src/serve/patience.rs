//! How long a client may take: to send a body, and to take in an answer.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Longest time for the whole body of a request.
const BODY: Duration = Duration::from_secs(30);
/// Longest time for which a client may take in nothing.
const STALLED: Duration = Duration::from_secs(30);

/// A clock that starts when it is first asked.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether `after` has gone by since it was started; wakes the task when it has.
    fn rings(&mut self, context: &mut Context<'_>, after: Duration) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        sleep.as_mut().poll(context).is_ready()
    }
}

/// The body of a request, which must come in time.
pub(super) struct Timely<B> {
    body: B,
    alarm: Alarm,
}

impl<B> Timely<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, alarm: Alarm::default() }
    }
}

impl<B> Body for Timely<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other))),
            Poll::Pending if self.alarm.rings(context, BODY) => Poll::Ready(Some(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the body did not come in time",
            )))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that ends when the client takes nothing in for too long.
pub(super) struct Patient<S> {
    stream: S,
    alarm: Alarm,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, alarm: Alarm::default() }
    }

    fn watched<T>(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.alarm = Alarm::default();
        } else if self.alarm.rings(context, STALLED) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing in")));
        }
        Poll::Ready(ready!(wrote))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watched(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watched(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watched(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::stream;
    use futures_util::stream::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{Patient, Timely};

    type Part = Result<Bytes, std::io::Error>;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_in_is_cut_and_one_that_is_slow_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = Patient::new(ours);
        let slow = async {
            let mut taken = [0; 16];
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                theirs.read_exact(&mut taken).await.expect("a part");
            }
            theirs
        };
        let (wrote, theirs) = tokio::join!(ours.write_all(&[0; 160]), slow);
        wrote.expect("all of it");
        let stalled = ours.write_all(&[0; 160]).await.expect_err("cut");
        assert_eq!(stalled.kind(), ErrorKind::TimedOut);
        drop(theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_in_time_is_an_error() {
        let whole = stream::iter([Part::Ok(Bytes::from("whole"))]);
        let read = axum::body::to_bytes(
            axum::body::Body::new(Timely::new(axum::body::Body::from_stream(whole))),
            99,
        );
        assert_eq!(read.await.expect("a body"), "whole");
        let begun = stream::iter([Part::Ok(Bytes::from("begun"))]).chain(stream::pending());
        let read = axum::body::to_bytes(
            axum::body::Body::new(Timely::new(axum::body::Body::from_stream(begun))),
            99,
        );
        assert!(tokio::time::timeout(Duration::from_secs(60), read).await.expect("an end").is_err());
    }
}
