//! A steady beat. The kernel keeps it, since a runtime's timers are only good to a millisecond.

use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::clock::{self, SECOND};

/// A beat of so many ticks a second.
pub(crate) struct Ticks {
    timer: AsyncFd<OwnedFd>,
    first: u64,
}

impl Ticks {
    /// Starts the beat; its first tick is a few milliseconds away.
    #[expect(deprecated, reason = "the new spelling is unsafe, and an `OwnedFd` keeps what it asks for")]
    pub(crate) fn start(rate: u64) -> Result<Self> {
        let first = clock::now() + 5_000_000;
        let time = |nanoseconds: u64| -> Result<Timespec> {
            Ok(Timespec {
                tv_sec: i64::try_from(nanoseconds / SECOND)?,
                tv_nsec: i64::try_from(nanoseconds % SECOND)?,
            })
        };
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let beat = Itimerspec { it_interval: time(SECOND / rate.max(1))?, it_value: time(first)? };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &beat)?;
        Ok(Self { timer: AsyncFd::with_interest(timer, Interest::READABLE)?, first })
    }

    /// The moment of the first tick, in nanoseconds of [`clock`].
    pub(crate) const fn first(&self) -> u64 {
        self.first
    }

    /// Waits until the next tick is past; how many are past since the last call.
    pub(crate) async fn tick(&mut self) -> Result<u64> {
        loop {
            let mut ready = self.timer.readable().await?;
            let mut ticks = [0; 8];
            match rustix::io::read(ready.get_inner(), &mut ticks) {
                Ok(_) => return Ok(u64::from_ne_bytes(ticks)),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
