//! One stream after another, and from one controller to the next.
//!
//! Where another controller leads than the one that is connected, the stream moves there: the new
//! connection is made beside the old one, and the old one is left when the new one's Hello has been
//! answered. Until then nothing is taken in from the old one, so that both see one state.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bodhi_net::backoff::Backoff;
use bodhi_proto::sync::{Down, Leader, Up};
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::config_sync_client::ConfigSyncClient;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::Status;
use super::connect::{Connect, Which, chain, channel};
use super::fleet::LinkTo;
use super::held::{Do, Held};
use super::leader::Lead;

/// Largest message from a controller: a chunk, or one resource with a bundle of roots.
const DOWN_MAX: usize = 2 << 20;
/// A controller answers a Hello within this time …
const WELCOME: Duration = Duration::from_secs(10);
/// … and within this one while another stream waits for it.
const WELCOME_BESIDE: Duration = Duration::from_secs(1);
/// While a stream is up, what is held is confirmed again this often.
const CONFIRM: Duration = Duration::from_secs(60);
/// Data planes move to a new leader spread over this time.
const MOVE: Duration = Duration::from_secs(3);
/// A controller that kept a stream for this long is turned to again.
const STABLE: Duration = Duration::from_secs(60);

/// The follower of controllers.
pub(super) struct Follower {
    pub(super) node: String,
    pub(super) connect: Connect,
    pub(super) held: Held,
    pub(super) report: watch::Sender<Status>,
    /// Where the fleet link has to go.
    pub(super) link: watch::Sender<LinkTo>,
    pub(super) lead: Lead,
    /// Where the last stream ended badly, or did not begin.
    pub(super) shunned: Option<SocketAddr>,
}

/// A controller as it was met.
struct Met {
    controller: String,
    address: Option<SocketAddr>,
}

/// A stream whose Hello has been answered.
struct Stream {
    up: mpsc::Sender<pb::FromDataPlane>,
    inbound: Streaming<pb::FromController>,
    met: Met,
    goodbye: Option<String>,
}

/// A connection to a controller, made beside a stream to another.
type Approach = BoxFuture<'static, Result<(Channel, Option<SocketAddr>), String>>;

/// The way to another controller than the one that is connected.
#[derive(Default)]
struct Moving {
    /// When to try.
    at: Option<Instant>,
    approach: Option<Approach>,
    backoff: Backoff,
}

impl Follower {
    /// Streams until told to stop, then writes what is unwritten.
    pub(super) async fn run(mut self, stopped: oneshot::Receiver<()>) {
        let mut stopped = pin!(stopped);
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = self.follow() => ended,
                _ = &mut stopped => break,
            };
            self.report.send_modify(|status| {
                status.controller = None;
                status.last_end = Some(ended.clone());
            });
            let wait = backoff.after(began.elapsed(), rand::random());
            tracing::info!(controller = ?self.connect, reason = ended, ?wait, "the sync stream ended");
            let mut wait = pin!(sleep(wait));
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    () = self.held.save_due() => self.held.save(),
                    _ = &mut stopped => return self.held.save_if_changed(),
                }
            }
        }
        self.held.save_if_changed();
    }

    /// From connecting to the end of the last stream; why it ended.
    async fn follow(&mut self) -> String {
        let (mut stream, welcome) = match self.first().await {
            Ok(opened) => opened,
            Err(why) => return why,
        };
        self.held.begin();
        let mut moving = Moving::default();
        let mut began = Instant::now();
        let mut confirm = began + CONFIRM;
        let mut next = Some(welcome);
        let ended = loop {
            if let Some(down) = next.take() {
                if let Err(why) = self.take_in(&mut stream, down).await {
                    break why;
                }
                self.look_around(&stream, &mut moving);
            }
            let at = moving.at;
            tokio::select! {
                message = stream.inbound.message() => match read(message) {
                    Ok(down) => next = Some(down),
                    Err(why) => break stream.goodbye.take().unwrap_or(why),
                },
                () = self.held.save_due() => self.held.save(),
                () = sleep_until(confirm) => {
                    confirm = Instant::now() + CONFIRM;
                    self.held.confirm_again();
                }
                moved = moving.arrived() => {
                    let greeting = self.held.greeting(&self.node);
                    match within(WELCOME_BESIDE, moved, greeting).await {
                        Ok((other, welcome)) => {
                            self.held.begin();
                            tracing::info!(controller = other.met.controller, "moved to the leader");
                            (stream, next) = (other, Some(welcome));
                            (began, moving) = (Instant::now(), Moving::default());
                        }
                        Err(why) => self.missed(&stream, &mut moving, &why),
                    }
                }
                () = due(at) => {
                    moving.at = None;
                    moving.approach = self.elsewhere(&stream).map(|leader| self.approach(leader));
                }
            }
        };
        // Only who kept the stream for long and ended it in good order is turned to again.
        let well = began.elapsed() >= STABLE && ended.starts_with(GOODBYE);
        self.shunned = stream.met.address.filter(|_| !well);
        ended
    }

    /// Connects to the leader, if one is known and not just lost, or to whichever answers.
    async fn first(&mut self) -> Result<(Stream, Down), String> {
        let last = self.shunned;
        let which = match self.lead.leader() {
            Some(leader) => Which::Rather {
                first: &leader.address,
                last,
            },
            None => Which::AnyBut(last),
        };
        let connected = self.connect.open(which).await;
        let connected = connected.map_err(|error| format!("cannot connect: {error}"))?;
        let address = connected.address;
        self.shunned = address;
        let channel = channel(connected).await;
        let channel = channel.map_err(|error| format!("cannot connect: {}", chain(&error)))?;
        within(
            WELCOME,
            Ok((channel, address)),
            self.held.greeting(&self.node),
        )
        .await
    }

    async fn take_in(&mut self, stream: &mut Stream, down: Down) -> Result<(), String> {
        let effects = self.held.receive(down);
        let effects = effects.map_err(|violation| format!("protocol broken: {violation}"))?;
        for effect in effects {
            match effect {
                Do::Send(message) => {
                    // Nobody listens any more: the other direction says why, and then ends.
                    let _ = stream.up.send((*message).into()).await;
                }
                Do::Note(note) => self.report.send_modify(|status| note.apply(status)),
                Do::Leader(leader) => {
                    if self.lead.heard(leader) {
                        self.tell_leader();
                    }
                }
                Do::Goodbye(reason) => stream.goodbye = Some(format!("{GOODBYE}{reason}")),
            }
        }
        Ok(())
    }

    fn tell_leader(&self) {
        let leader = self.lead.leader().cloned();
        self.report.send_modify(|status| status.leader = leader);
    }

    /// The leader, where it is not the one that is connected.
    fn elsewhere(&self, stream: &Stream) -> Option<&Leader> {
        let leader = self.lead.leader()?;
        let can = matches!(self.connect, Connect::Tls(_));
        (can && leader.controller != stream.met.controller).then_some(leader)
    }

    /// Sees to it that the stream moves if it has to, and that the fleet link goes where it belongs.
    fn look_around(&mut self, stream: &Stream, moving: &mut Moving) {
        let to = match (self.lead.leader(), stream.met.address) {
            (_, None) => LinkTo::TheOnlyOne,
            (Some(leader), _) => LinkTo::At(leader.address.clone()),
            (None, Some(address)) => LinkTo::At(address.to_string()),
        };
        let changed = self.link.send_if_modified(|before| {
            let differs = *before != to;
            *before = to;
            differs
        });
        if changed {
            *moving = Moving::default();
        }
        if self.elsewhere(stream).is_none() {
            self.lead.reached();
            *moving = Moving::default();
        } else if moving.at.is_none() && moving.approach.is_none() {
            moving.at = Some(Instant::now() + MOVE.mul_f64(rand::random()));
        }
    }

    fn approach(&self, leader: &Leader) -> Approach {
        let (connect, address) = (self.connect.clone(), leader.address.clone());
        Box::pin(async move {
            let connected = connect.open(Which::At(&address)).await;
            let connected = connected.map_err(|error| error.to_string())?;
            let address = connected.address;
            let channel = channel(connected).await;
            Ok((channel.map_err(|error| chain(&error))?, address))
        })
    }

    /// The leader could not be reached: what is connected is good enough for now.
    fn missed(&mut self, stream: &Stream, moving: &mut Moving, why: &str) {
        let now = Instant::now();
        let wait = moving.backoff.after(Duration::ZERO, rand::random());
        let leader = self.lead.leader();
        let (name, address) = leader.map(|l| (&*l.controller, &*l.address)).unzip();
        tracing::info!(
            leader = name,
            address,
            why,
            ?wait,
            "the leader cannot be reached"
        );
        moving.at = Some(now + wait);
        if self.lead.unreachable(now) {
            self.tell_leader();
            self.look_around(stream, moving);
        }
    }
}

const GOODBYE: &str = "goodbye: ";

impl Moving {
    /// Resolves when the other connection is made, or cannot be.
    async fn arrived(&mut self) -> Result<(Channel, Option<SocketAddr>), String> {
        match &mut self.approach {
            Some(approach) => {
                let arrived = approach.await;
                self.approach = None;
                arrived
            }
            None => std::future::pending().await,
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A stream over this connection, once its Hello has been answered.
async fn within(
    most: Duration,
    connected: Result<(Channel, Option<SocketAddr>), String>,
    hello: Up,
) -> Result<(Stream, Down), String> {
    let (channel, address) = connected?;
    let begun = timeout(most, begin(channel, address, hello)).await;
    begun.map_err(|_| format!("no answer to the Hello within {most:?}"))?
}

async fn begin(
    channel: Channel,
    address: Option<SocketAddr>,
    hello: Up,
) -> Result<(Stream, Down), String> {
    let mut client = ConfigSyncClient::new(channel).max_decoding_message_size(DOWN_MAX);
    let (up, outbound) = mpsc::channel::<pb::FromDataPlane>(1);
    // The channel is empty and its other end lives in `outbound`.
    let _ = up.send(hello.into()).await;
    let opened = client.sync(ReceiverStream::new(outbound)).await;
    let mut inbound = opened
        .map_err(|status| format!("refused: {}", status.message()))?
        .into_inner();
    let welcome = match read(inbound.message().await)? {
        Down::Welcome(welcome) => welcome,
        Down::Goodbye(reason) => return Err(format!("{GOODBYE}{reason}")),
        _ => return Err("protocol broken: it does not begin with a Welcome".to_owned()),
    };
    let met = Met {
        controller: welcome.controller.clone(),
        address,
    };
    let stream = Stream {
        up,
        inbound,
        met,
        goodbye: None,
    };
    Ok((stream, Down::Welcome(welcome)))
}

fn read(message: Result<Option<pb::FromController>, tonic::Status>) -> Result<Down, String> {
    match message {
        Ok(Some(message)) => {
            Down::try_from(message).map_err(|unreadable| format!("protocol broken: {unreadable}"))
        }
        Ok(None) => Err("closed by the controller".to_owned()),
        Err(status) => Err(format!("broken: {}", status.message())),
    }
}
