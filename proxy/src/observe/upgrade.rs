//! WebSockets: after 101 the bytes of both sides pass as they come.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::settle::{Answered, Settlement};
use super::{End, Marks};
use crate::app::Sidecar;
use crate::engine::{Down, Length};
use crate::forward::Sent;

/// Longest time that one side may go on after the other has ended.
const LINGER: Duration = Duration::from_secs(5);

/// Relays an upgraded connection both ways until both sides have ended it.
pub(super) async fn upgraded(sidecar: &Sidecar, sent: Sent<'_>, down: &mut Down) -> End {
    let marks = Marks::of(&sent);
    let Sent { exchange, held, model, judged, up, head, .. } = sent;
    let settlement = Settlement { exchange, held, model, judged, status: 101 };
    let mut reply = head.into_reply(true);
    marks.put(&mut reply);
    let mut answered = Answered { bytes: Some([0, 0]), ..Answered::default() };
    if down.reply(reply, Length::AsIs).await.is_err() {
        up.drop_rest().await;
        answered.code = Some("client_gone");
    } else {
        match (down.leave_http().await, up.leave_http().await) {
            (Some(near), Some(far)) => {
                let bytes = [AtomicU64::new(0), AtomicU64::new(0)];
                tokio::select! {
                    biased;
                    stopped = sidecar.until_closed(&settlement.exchange) => answered.code = Some(stopped.code.as_str()),
                    () = carry(near, far, &bytes) => {}
                }
                answered.bytes = Some(bytes.map(AtomicU64::into_inner));
            }
            _ => answered.code = Some("upgrade_failed"),
        }
    }
    settlement.settle(sidecar, answered).await;
    End::Broken
}

/// Carries bytes both ways, each way on its own: neither may have to wait for the other. A quiet connection is no
/// fault. Counts the bytes that reached the far and the near side.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    near: (Bytes, S),
    far: (Bytes, S),
    [sent, received]: &[AtomicU64; 2],
) {
    let (near_read, near_write) = tokio::io::split(near.1);
    let (far_read, far_write) = tokio::io::split(far.1);
    let out = pump(near.0, near_read, far_write, sent);
    let back = pump(far.0, far_read, near_write, received);
    tokio::pin!(out, back);
    tokio::select! {
        () = &mut out => drop(tokio::time::timeout(LINGER, back).await),
        () = &mut back => drop(tokio::time::timeout(LINGER, out).await),
    }
}

async fn pump(
    early: Bytes,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut part = early.as_ref();
    loop {
        if to.write_all(part).await.is_err() || to.flush().await.is_err() {
            return;
        }
        count.fetch_add(part.len() as u64, Ordering::Relaxed);
        part = match from.read(&mut buffer).await {
            Ok(read @ 1..) => buffer.get(..read).unwrap_or_default(),
            Ok(_) | Err(_) => break,
        };
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}
