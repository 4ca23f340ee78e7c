//! What a node serves: chooses layers, loads them, moves to others when it is needed there, and tells the network.

use super::{
    draft::Guess,
    hub::Hub,
    model::Model,
    worker::{Setup, Worker},
};
use crate::{error::NodeError, logs::printable};
use ailo_proto::Serving;
use ailo_protocol::{
    Keypair, NodeId,
    inference::{
        announce::{Announce, MAX_ADDRESSES, MAX_NAME, MAX_NEAR},
        known::PAUSE_MS,
    },
    keys, net,
};
use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// How often a node says again what it serves.
const ANNOUNCE: Duration = Duration::from_secs(5);
/// How often it looks whether there is something new to say.
const NEWS: Duration = Duration::from_millis(500);
/// Sessions go elsewhere, or end, within this time, before a node serves other layers.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

/// Which layers a node is to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// These; none serves nothing and only asks.
    Layers(Range<usize>),
    /// As many as fit into so many bytes, where the network has fewest.
    Bytes(u64),
}

impl Share {
    /// All layers.
    pub const WHOLE: Share = Share::Bytes(u64::MAX);
}

/// How layers are served.
#[derive(Clone, Debug)]
pub struct Hosting {
    /// Threads that compute.
    pub threads: usize,
    /// Bytes for sessions, and for what drafts have read of them.
    pub memory: u64,
    /// How much less of a busy processor it gets, 0 to 19.
    pub niceness: i32,
    /// What follows is guessed by this.
    pub draft: Guess,
}

/// When a node that chooses its layers does what.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// It listens to the others before it chooses.
    pub listen: Duration,
    /// It considers other layers about so often.
    pub look: Duration,
    /// After a failure it tries again; each time after twice as long.
    pub again: Duration,
    /// It waits no longer than this.
    pub most: Duration,
}

impl Default for Pauses {
    fn default() -> Pauses {
        let [listen, look, again, most] = [7, 60, 5, 300].map(Duration::from_secs);
        Pauses { listen, look, again, most }
    }
}

impl Pauses {
    /// The same for a node that looks around at other times.
    pub fn looking(look: Duration) -> Pauses {
        let Pauses { listen, again, most, .. } = Pauses::default();
        Pauses { listen: listen.min(look), look, again: again.min(look / 8), most: most.min(look) }
    }

    /// How long to wait after so many failures in a row.
    pub fn after(&self, failures: u32) -> Duration {
        self.again.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.most)
    }
}

/// Loads these layers and serves them: what is to be announced. What is served already goes on as [`Hub::serve`] says.
///
/// # Errors
///
/// What loading the model says.
pub async fn start(
    hub: &Arc<Hub>,
    model: &Arc<Model>,
    layers: Range<u32>,
    hosting: &Hosting,
) -> Result<Announce, NodeError> {
    let Hosting { threads, memory, niceness, draft } = hosting.clone();
    let span = layers.start as usize..layers.end as usize;
    let setup = Setup { model: model.clone(), layers: span, threads, memory, niceness, draft };
    let serving = hub.clone();
    let load = move || {
        let started = Worker::start(&setup, &serving)?;
        let (speed, now) = (started.speed, started.now());
        serving.serve(started);
        Ok::<_, NodeError>((speed, now))
    };
    let loaded = tokio::task::spawn_blocking(load).await;
    let (speed, (room, token_us)) = loaded.map_err(|e| NodeError::io("load the model", std::io::Error::other(e)))??;
    let announce = Announce {
        node: *hub.node(),
        at_ms: 0,
        model: model.id,
        name: printable(&model.name)
            .char_indices()
            .take_while(|(at, c)| at + c.len_utf8() <= MAX_NAME)
            .map(|(_, c)| c)
            .collect(),
        before: hub.before(),
        dtype: model.dtype().to_string(),
        first: layers.start,
        end: layers.end,
        total: model.shape.layers as u32,
        layer_us: speed.layer_us,
        embed_us: speed.embed_us,
        head_us: speed.head_us,
        token_us,
        // All that there is now: what drafts take is none of it.
        memory: room,
        room,
        price: hub.price(),
        near: Vec::new(),
        addresses: Vec::new(),
    };
    hub.announce(announce.clone());
    Ok(announce)
}

/// A model, and the layers of it that are served.
type Here = Option<(Arc<Model>, Range<u32>)>;

/// Serves a share of each model that comes, as long as it is asked for; says what is served, and which model, whether or not a part of it could be.
pub async fn keep(
    hub: Arc<Hub>,
    (share, hosting, pauses): (Share, Hosting, Pauses),
    mut models: watch::Receiver<Option<Arc<Model>>>,
    (offered, served): (watch::Sender<Option<Arc<Model>>>, watch::Sender<Option<Announce>>),
) {
    let (mut here, mut failures): (Here, u32) = (None, 0);
    loop {
        let model = models.borrow_and_update().clone();
        // A thread that failed has said so; its layers are loaded again.
        here = here.filter(|_| hub.computes());
        if let Some(model) = model {
            match next(&hub, (&share, &pauses), &model, &here).await {
                Ok(Some(to)) => {
                    let old = here.take_if(|(known, _)| known.id == model.id).map(|(_, span)| span);
                    if let Some(old) = &old {
                        tracing::info!(from = ?old, ?to, "others serve these layers: moves to where fewer do");
                        served.send_replace(None);
                        hub.leave(LEAVE_WITHIN).await;
                    }
                    // What could be loaded before can be again.
                    for span in [Some(to), old].into_iter().flatten() {
                        match start(&hub, &model, span.clone(), &hosting).await {
                            Ok(announce) => {
                                tracing::info!(layers = ?span, model = announce.name, card = hub.card(), "serves");
                                served.send_replace(Some(announce));
                                here = Some((model.clone(), span));
                                break;
                            }
                            Err(e) => failed(&e, &span),
                        }
                        failures += 1;
                    }
                }
                Ok(None) => failures = 0,
                Err(e) => {
                    tracing::error!(error = %e, "the model is not served");
                    failures += 1;
                }
            }
            offered.send_if_modified(|known| {
                let new = known.as_ref().is_none_or(|known| known.id != model.id);
                new.then(|| *known = Some(model.clone())).is_some()
            });
        }
        // Not all at once, or all would move to the same place.
        let look = pauses.look.mul_f64(0.5 + lot());
        let wait = match (failures, &here) {
            (0, _) => look,
            (_, None) => pauses.after(failures),
            // It serves, if not what is needed most: to try that again sends all sessions away.
            (_, Some(_)) => pauses.after(failures).max(look),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Its layers are loaded again at once; when they fail again before it looks around, it waits.
            () = hub.failed(), if here.is_some() && failures == 0 => failures = 1,
            changed = models.changed() => if changed.is_err() { return },
        }
    }
}

/// What is to be served next, if it is not what is served `here`.
async fn next(
    hub: &Hub,
    (share, pauses): (&Share, &Pauses),
    model: &Model,
    here: &Here,
) -> Result<Option<Range<u32>>, NodeError> {
    let total = model.shape.layers;
    match (share, here) {
        (Share::Layers(layers), _) if layers.end > total => {
            let (first, end) = (layers.start, layers.end);
            Err(NodeError::Usage(format!("the model has {total} layers: --layers {first}..{end} names others")))
        }
        (Share::Layers(layers), here) => {
            let served = layers.is_empty() || here.as_ref().is_some_and(|(known, _)| known.id == model.id);
            Ok((!served).then_some(layers.start as u32..layers.end as u32))
        }
        // The next state of the same model.
        (Share::Bytes(_), Some((known, span))) if known.id != model.id => Ok(Some(span.clone())),
        (Share::Bytes(bytes), here) => {
            let spans = model.spans(*bytes);
            if spans.is_empty() {
                let (has, needs) = (*bytes >> 20, (model.least_bytes() >> 20) + 1);
                return Err(NodeError::Usage(format!(
                    "no layer of the model fits into {has} MiB: it takes --memory {needs} at least, or a smaller --dtype"
                )));
            }
            if let Some((_, span)) = here {
                return Ok(hub.known().needs(hub.node(), &model.id, span, &spans));
            }
            if spans.len() > 1 {
                // Everybody else has said what it serves by then. Of those that start at once, some begin before the others choose.
                tokio::time::sleep(pauses.listen.mul_f64(1.0 + lot() / 2.0)).await;
            }
            Ok(hub.known().weakest(hub.node(), &model.id, &spans))
        }
    }
}

/// 0 to 1.
fn lot() -> f64 {
    f64::from(keys::random_bytes()[0]) / 255.0
}

fn failed(error: &NodeError, layers: &Range<u32>) {
    tracing::error!(%error, ?layers, "these layers of the model are not served: it is tried again in a while");
}

/// Tells the network what is served here, again and again, and when it is served no more.
pub async fn announce(
    hub: Arc<Hub>,
    net: net::Handle,
    key: Keypair,
    mut served: watch::Receiver<Option<Announce>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tick = tokio::time::interval(ANNOUNCE);
    let (mut peers, mut last, mut said_ms) = (0, None::<Announce>, 0);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = served.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(NEWS) => {
                // Who has just come should not wait, nor who looks for room.
                let moved = match (&last, hub.now()) {
                    (Some(said), Some((room, _))) => room.abs_diff(said.room) > said.memory / 4,
                    (said, now) => said.is_some() && now.is_none(),
                };
                if net.peers().len() == peers && !moved {
                    continue;
                }
            }
            _ = stop.changed() => return,
        }
        peers = net.peers().len();
        let here = served.borrow_and_update().clone().zip(hub.now());
        let mut announce = match (here, last.take()) {
            (Some((announce, (room, token_us))), _) => Announce { room, token_us, before: hub.before(), ..announce },
            (None, Some(last)) => {
                hub.known().forget(hub.node());
                Announce { first: last.end, ..last }
            }
            (None, None) => continue,
        };
        announce.price = hub.price();
        announce.addresses = net.addresses().iter().take(MAX_ADDRESSES).map(ToString::to_string).collect();
        // A clock that was set back makes no words that are older than the last ones: nobody takes them.
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        said_ms = clock.max(said_ms + PAUSE_MS);
        announce.at_ms = said_ms;
        announce.near = near(&net).into_iter().take(MAX_NEAR).collect();
        if !announce.withdraws() {
            hub.announce(announce.clone());
            last = Some(announce.clone());
        }
        let canonical = announce.sign(hub.network(), &key).into();
        if let Err(e) = net.publish(Serving { canonical }).await {
            tracing::debug!(error = %e, "what is served here could not be said");
        }
    }
}

/// Round trips to peers, in microseconds.
pub fn near(net: &net::Handle) -> HashMap<NodeId, u32> {
    let known = |peer: net::PeerInfo| Some((peer.node, u32::try_from(peer.rtt?.as_micros()).ok()?));
    net.peers().into_iter().filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{
        super::session::{Event, Failure, Reach, Session},
        *,
    };
    use crate::service::models::{Held, Models};
    use ailo_proto::Sampling;
    use ailo_protocol::{
        Amount, Hash,
        inference::{client, known::Rank},
        presets,
    };
    use ailo_training::{checkpoint::random, state::ModelState};
    use serde_json::json;
    use std::{os::unix::fs::FileExt, path::Path, sync::Weak};

    fn write(folder: &Path) {
        let config = json!({ "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
                             "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 262, "max_position_embeddings": 64,
                             "tie_word_embeddings": true, "rms_norm_eps": 1e-6 });
        random::write(folder, &config, &random::tensors(&config), 1).unwrap();
        random::write_tokenizer(folder, None).unwrap();
    }

    /// Pauses that no test waits for, but for the one after a failure.
    fn pauses() -> Pauses {
        let (brief, long) = (Duration::from_millis(5), Duration::from_secs(3600));
        Pauses { listen: Duration::ZERO, look: long, again: brief, most: brief }
    }

    fn hosting(draft: Guess) -> Hosting {
        Hosting { threads: 1, memory: 1 << 20, niceness: 0, draft }
    }

    type Seen = (watch::Receiver<Option<Arc<Model>>>, watch::Receiver<Option<Announce>>);

    /// Keeps a share of a model served, as a node does.
    fn serve(hub: &Arc<Hub>, model: &Arc<Model>, share: Share, hosting: Hosting, pauses: Pauses) -> Seen {
        let ((offered, model_seen), (served, announced)) = (watch::channel(None), watch::channel(None));
        let (models, model) = watch::channel(Some(model.clone()));
        let keep = keep(hub.clone(), (share, hosting, pauses), model, (offered, served));
        tokio::spawn(async move {
            let _models = models;
            keep.await;
        });
        (model_seen, announced)
    }

    fn hub() -> Arc<Hub> {
        Hub::new(Keypair::generate(), Hash::ZERO, 0.0, (None, None), None)
    }

    #[test]
    fn pauses_after_failures_grow_up_to_a_bound() {
        let waits = [1, 2, 3, 6, 7, 100].map(|failures| Pauses::default().after(failures).as_secs());
        assert_eq!(waits, [5, 10, 20, 160, 300, 300]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_can_t_be_served_is_served_once_it_can() {
        let [folder, draft] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        write(folder.path());
        let small = draft.path().join("small");
        let model = Arc::new(Model::open(folder.path(), None, None, &mut |_, _| ()).unwrap());
        let hosting = hosting(Guess::Model(small.clone()));
        let (mut offered, mut served) = serve(&hub(), &model, Share::Layers(0..4), hosting, pauses());
        offered.wait_for(Option::is_some).await.unwrap();
        assert!(served.borrow().is_none(), "the draft is not there");
        std::fs::create_dir(&small).unwrap();
        write(&small);
        let serves = tokio::time::timeout(Duration::from_secs(20), served.wait_for(Option::is_some));
        assert_eq!(serves.await.unwrap().unwrap().as_ref().map(Announce::layers), Some(0..4));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_can_t_load_where_it_is_needed_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let model = Arc::new(Model::open(folder.path(), None, None, &mut |_, _| ()).unwrap());
        let hub = hub();
        let half = model.least_bytes() * 2 + 4 * 262 * 32 + 4 * 32;
        assert_eq!(model.spans(half), [0..2, 1..3, 2..4]);
        // The last layer's weights are others from now on.
        let weights = folder.path().join("model.safetensors");
        let file = std::fs::OpenOptions::new().read(true).write(true).open(weights).unwrap();
        let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header as usize]).unwrap();
        let at = header["model.layers.3.mlp.up_proj.weight"]["data_offsets"][0].as_u64().unwrap();
        let at = at + 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
        file.write_all_at(&[bytes[at as usize] ^ 1], at).unwrap();

        let looks = Pauses { look: Duration::from_millis(10), ..pauses() };
        let (_, mut served) = serve(&hub, &model, Share::Bytes(half), hosting(Guess::default()), looks);
        let within = Duration::from_secs(20);
        let first = tokio::time::timeout(within, served.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
        assert_eq!(first.as_ref().map(Announce::layers), Some(0..2));
        // Two others come and have the first half; nobody has the second.
        for node in [(); 2].map(|()| *Keypair::generate().public()) {
            let other = Announce { node, at_ms: 1, price: Amount::ZERO, ..first.clone().unwrap() };
            hub.known().hear(0, Rank::Connected, other);
        }
        tokio::time::timeout(within, served.wait_for(Option::is_none)).await.unwrap().unwrap();
        let again = tokio::time::timeout(within, served.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
        assert_eq!(again.map(|announce| announce.layers()), Some(0..2), "it serves what it can");
    }

    /// A state of the network's own model.
    fn state(seed: u64) -> (Arc<Model>, Weak<Held>) {
        let (folder, config) = (tempfile::tempdir().unwrap(), presets::dev().model);
        let held = Models::open(folder.path().into(), config).put(ModelState::initial(&config, seed)).unwrap();
        let weak = Arc::downgrade(&held);
        (Arc::new(Model::own(config, held).unwrap()), weak)
    }

    /// A text that goes on from there.
    async fn text(hub: &Arc<Hub>, model: &Arc<Model>, begin: &[u32]) -> Result<Vec<u32>, Failure> {
        let sampling = Sampling { limit: 40, prompt: 1, top_p: 1.0, ..Sampling::default() };
        let mut tokens = begin.to_vec();
        let mut session = Session::start(hub, model, Reach::default(), tokens.clone(), sampling);
        loop {
            match session.next().await.unwrap() {
                Event::Token(token, _) => tokens.push(token),
                Event::Finished(_) => return Ok(tokens),
                Event::Failed(why) => return Err(why),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_text_that_began_with_the_state_before_goes_on_here_when_its_stage_dies() {
        let (hub, [(first, held), (second, _), (third, _)]) = (hub(), [1, 2, 3].map(state));
        let hosting = hosting(Guess::default());
        let layers = 0..first.shape.layers as u32;
        assert_eq!(start(&hub, &first, layers.clone(), &hosting).await.unwrap().before, None);
        let whole = text(&hub, &first, &[7]).await.unwrap();
        assert_eq!(whole.len(), 40);

        // The head moves, and then a stage dies elsewhere: this one is found for the rest.
        let announce = start(&hub, &second, layers.clone(), &hosting).await.unwrap();
        assert_eq!((announce.model, announce.before), (second.id, Some(first.id)));
        assert_eq!(text(&hub, &first, &whole[..10]).await.unwrap(), whole);
        let newer = text(&hub, &second, &[7]).await.unwrap();
        assert_ne!(newer, whole);

        // Of two states, and no more: the first is freed.
        let announce = start(&hub, &third, layers, &hosting).await.unwrap();
        assert_eq!(announce.before, Some(second.id));
        assert_eq!(text(&hub, &second, &newer[..10]).await.unwrap(), newer);
        let refused = text(&hub, &first, &whole[..10]).await.unwrap_err();
        assert!(matches!(refused, Failure::Text(client::Failure::Unserved { .. })), "{refused}");
        drop(first);
        let freed = async {
            while held.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), freed).await.unwrap();
        hub.stop();
    }

    #[tokio::test]
    async fn who_may_take_too_little_is_told_how_much_it_takes() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let model = Arc::new(Model::open(folder.path(), None, None, &mut |_, _| ()).unwrap());
        let why = |share: Share| {
            let (model, hub) = (model.clone(), hub());
            async move { next(&hub, (&share, &pauses()), &model, &None).await.unwrap_err().to_string() }
        };
        assert!(why(Share::Bytes(1000)).await.contains("--memory 1 at least, or a smaller --dtype"));
        assert!(why(Share::Layers(0..5)).await.contains("the model has 4 layers"));
    }
}
