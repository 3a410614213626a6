//! Follows what control has in force: by a stream, or by asking again and again where a stream does not pass.

use std::sync::Arc;
use std::time::Duration;

use sideguard_client::{Client, ClientError, Told};
use sideguard_runtime::clock::Stopwatch;
use sideguard_types::control::feed::{Beat, Has};
use sideguard_types::control::{Enrolled, Signed};

use super::link::Never;
use super::{Fleet, taking};
use crate::app::Sidecar;

/// A stream that has brought nothing after this time is held back by something on the way.
const FIRST: Duration = Duration::from_secs(4);
/// For so long it is asked then, before a stream is tried again.
const ASK: Duration = Duration::from_secs(60);
/// Answers that bring nothing are asked for no more often than this.
const PACE: Duration = Duration::from_secs(1);
/// How often a refused generation is tried again: what it lacks may be there by now.
const RETRY: Duration = Duration::from_secs(30);

/// One sidecar's way to control.
pub(super) struct Way<'a> {
    pub(super) sidecar: &'a Arc<Sidecar>,
    pub(super) fleet: &'a Fleet,
    pub(super) client: &'a Client,
    pub(super) identity: &'a Enrolled,
}

/// Why a stream ended.
enum Ended {
    /// It never began.
    HeldBack(String),
    Broken(ClientError),
}

/// Beats of one stream: the first one answers the nonce, each later one is as much younger as control's clock says.
struct Pulse {
    nonce: String,
    asked: Stopwatch,
    first: Option<Beat>,
}

/// Follows until control is out of reach.
pub(super) async fn follow(way: Way<'_>) -> Result<Never, String> {
    let mut held_back = 0;
    loop {
        match way.stream().await {
            Ended::HeldBack(why) => {
                way.client.pass_over();
                held_back += 1;
                if held_back < way.client.replicas() {
                    continue;
                }
                tracing::warn!(why, "the feed's stream does not pass: asking instead");
                way.ask().await.map_err(|error| error.to_string())?;
                held_back = 0;
            }
            Ended::Broken(error) => {
                way.fleet.heed(&error);
                return Err(error.to_string());
            }
        }
    }
}

impl Way<'_> {
    async fn stream(&self) -> Ended {
        let has = self.fleet.has();
        let mut pulse = Pulse { nonce: has.nonce.clone(), asked: Stopwatch::start(), first: None };
        let opened = tokio::time::timeout(FIRST, self.client.feed_stream(&has)).await;
        let mut stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(ClientError::Refused(problem))) if problem.status == 404 => {
                return Ended::HeldBack("control has no stream".to_owned());
            }
            Ok(Err(error @ ClientError::Protocol { .. })) => return Ended::HeldBack(error.to_string()),
            Ok(Err(error)) => return Ended::Broken(error),
            Err(_) => return Ended::HeldBack(format!("no answer within {} s", FIRST.as_secs())),
        };
        let mut begun = false;
        let mut refused: Option<Box<Signed>> = None;
        let mut retry = Box::pin(tokio::time::sleep(RETRY));
        loop {
            let next = stream.next();
            let told = if begun {
                tokio::select! {
                    told = next => told,
                    () = &mut retry => {
                        retry = Box::pin(tokio::time::sleep(RETRY));
                        self.again(&mut refused).await;
                        continue;
                    }
                    () = self.fleet.files.notified() => {
                        self.again(&mut refused).await;
                        continue;
                    }
                }
            } else {
                match tokio::time::timeout(FIRST, next).await {
                    Ok(told) => told,
                    Err(_) => return Ended::HeldBack(format!("nothing within {} s", FIRST.as_secs())),
                }
            };
            begun = true;
            match told {
                Ok(Told::Kills(kills)) => {
                    taking::take_kills(self.sidecar, self.fleet, self.identity, kills);
                }
                Ok(Told::Generation(signed)) => {
                    refused = self.take(*signed).await.map(Box::new);
                }
                Ok(Told::Beat(beat)) => pulse.feel(self, beat),
                Err(error) => return Ended::Broken(error),
            }
        }
    }

    /// Asks for a while, then it is time to try a stream again.
    async fn ask(&self) -> Result<(), ClientError> {
        let since = Stopwatch::start();
        let mut refused: Option<Box<Signed>> = None;
        while since.elapsed() < ASK {
            let (has, asked) = (self.fleet.has(), Stopwatch::start());
            // One that was refused is not asked for again.
            let passed = refused.as_ref().map_or(has.generation, |refused| refused.number);
            let feed = self.client.feed(&Has { generation: passed, ..has.clone() }).await?;
            if let Some(kills) = feed.kills {
                taking::take_kills(self.sidecar, self.fleet, self.identity, kills);
            }
            match feed.generation {
                Some(signed) => refused = self.take(signed).await.map(Box::new),
                None => self.again(&mut refused).await,
            }
            if let Some(beat) = &feed.beat {
                self.fleet.beat(self.identity, beat, &has.nonce, asked);
            }
            // An answer that comes at once and brings nothing would be asked for without end.
            let same = Has { nonce: has.nonce.clone(), ..self.fleet.has() } == has;
            if same && asked.elapsed() < PACE {
                tokio::time::sleep(PACE).await;
            }
        }
        Ok(())
    }

    /// Takes a generation; gives it back when it is refused and may fit later.
    async fn take(&self, signed: Signed) -> Option<Signed> {
        let taken = taking::take_generation(self.sidecar, self.fleet, self.identity, &signed).await;
        (!taken).then_some(signed)
    }

    async fn again(&self, refused: &mut Option<Box<Signed>>) {
        if let Some(signed) = refused.take() {
            *refused = self.take(*signed).await.map(Box::new);
        }
    }
}

impl Pulse {
    fn feel(&mut self, way: &Way<'_>, beat: Beat) {
        let later = self.first.as_ref().map_or(Duration::ZERO, |first| beat.time.since(first.time));
        // It was made no earlier than so long after the question. A clock that ran ahead cannot make it younger than now.
        let asked = self.asked.later(later);
        way.fleet.beat(way.identity, &beat, &self.nonce, asked);
        self.first.get_or_insert(beat);
    }
}
