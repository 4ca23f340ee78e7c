//! Inference in a node that runs: serves a checkpoint, or each new state of the network's own model; reaches other nodes; answers the API.

use super::{
    api::{Api, Bounds},
    audit, card,
    court::{self, Court},
    draft::Guess,
    host::{self, Hosting, Pauses, Share},
    hub::Hub,
    links::Links,
    model::Model,
    payment::{Ask, Cashier, Pays},
};
use crate::{
    error::NodeError,
    progress,
    service::{chain::Chain, models::Models},
};
use ailo_protocol::{Hash, Keypair, net};
use ailo_training::{
    Device, device,
    engine::{Dtype, Gpu},
};
use std::{path::PathBuf, sync::Arc};
use tokio::sync::watch;

/// Seconds.
const HOUR: f64 = 3600.0;
/// How much less of a busy processor the network's own model gets: nodes that train serve it, too.
const OWN_NICENESS: i32 = 5;
/// Of the memory for layers, sessions get this part beside.
pub const SESSIONS: u64 = 4;
/// How often it is looked whether the state of the head has come.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// What a node serves.
#[derive(Clone, Debug)]
pub struct Serves {
    /// A checkpoint; none: the network's own model.
    pub checkpoint: Option<Checkpoint>,
    /// Which layers.
    pub share: Share,
    /// Bytes for sessions.
    pub memory: u64,
    /// Both are as somebody asked; else they are what is usual, which is more or less on a card.
    pub asked: bool,
    /// A graphics card may compute it, if there is one and it does not train.
    pub card: bool,
    /// The node trains.
    pub trains: bool,
    /// Threads that compute; none: one for each core, and one for the network's own model.
    pub threads: Option<usize>,
    /// When it chooses layers.
    pub pauses: Pauses,
}

/// A checkpoint that a node serves.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub folder: PathBuf,
    /// How weights are kept.
    pub dtype: Option<Dtype>,
    /// What follows is guessed by this.
    pub draft: Guess,
}

/// Inference of a node.
pub struct Inference {
    /// Who serves what.
    pub hub: Arc<Hub>,
    /// What answers.
    pub api: Arc<Api>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Inference {
    /// Starts what is to run until `stop`. A checkpoint is opened first; what its layers hold is kept in a folder.
    ///
    /// # Errors
    ///
    /// As [`Model::open`].
    pub async fn start(
        (mut serves, hashes, checks, audits): (Serves, PathBuf, f64, f64),
        (ask, pays, receipts): (Ask, Option<Pays>, PathBuf),
        ((key, network), court): ((Keypair, Hash), Court),
        net: net::Handle,
        (models, chain): (Models, Chain),
        stop: watch::Receiver<bool>,
    ) -> Result<Inference, NodeError> {
        let cashier = (ask != Ask::Free).then(|| Cashier::new(chain.clone(), (key.clone(), network), ask, receipts));
        let hub = Hub::new(key.clone(), network, checks, (cashier.clone(), pays), Some(court));
        hub.connect(Links::start(net.clone(), &hub, stop.clone()));
        let (offered, current) = watch::channel(None);
        let (served, announced) = watch::channel(None);
        let network = (Some(net.clone()), Some(models.clone()));
        let api = Api::new(hub.clone(), network, current.clone(), Bounds::default());
        let mut tasks = vec![tokio::spawn(host::announce(hub.clone(), net, key, announced, stop.clone()))];
        tasks.push(tokio::spawn(court::run(hub.clone(), models.clone(), current.clone(), stop.clone())));
        if audits > 0.0 {
            let each = std::time::Duration::from_secs_f64(HOUR / audits);
            tasks.push(tokio::spawn(audit::run(hub.clone(), current, each, stop.clone())));
        }
        tasks.extend(cashier.map(|cashier| tokio::spawn(cashier.run(stop.clone()))));
        let trains = serves.trains;
        // Where libtorch trains on the card, layers would take the memory that it needs.
        let free = move || card::find().filter(|_| !trains || device(true) == Device::Cpu);
        let card = if serves.card { tokio::task::spawn_blocking(free).await.ok().flatten() } else { None };
        if let (Some(room), false, true) =
            (card.as_ref().and_then(card::room), serves.asked, serves.checkpoint.is_some())
        {
            serves.memory = room / SESSIONS;
            if let Share::Bytes(bytes) = &mut serves.share {
                *bytes = room;
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let (threads, niceness, draft) = match &serves.checkpoint {
            Some(checkpoint) => (cores, 0, checkpoint.draft.clone()),
            None => (1, OWN_NICENESS, Guess::default()),
        };
        let hosting = Hosting { threads: serves.threads.unwrap_or(threads), memory: serves.memory, niceness, draft };
        let (model, opened) = watch::channel(None);
        let keep = host::keep(hub.clone(), (serves.share, hosting, serves.pauses), opened, (offered, served));
        if let Some(Checkpoint { folder, dtype, draft }) = serves.checkpoint {
            let open = move || {
                let model = Model::open(&folder, dtype, Some(&hashes), &mut progress::bytes("reading the model"))?;
                Ok::<_, NodeError>(model.with_draft(draft.bytes()?).on_card(card))
            };
            let opened = tokio::task::spawn_blocking(open).await;
            let opened = opened.map_err(|e| NodeError::io("open the model", std::io::Error::other(e)))??;
            model.send_replace(Some(Arc::new(opened)));
            tasks.push(tokio::spawn(until(stop.clone(), async move {
                let _model = model; // It stays the one.
                keep.await;
            })));
        } else {
            tasks.push(tokio::spawn(until(stop.clone(), keep)));
            tasks.push(tokio::spawn(until(stop, own(models, chain, model, card))));
        }
        Ok(Inference { hub, api, tasks })
    }

    /// Ends with the node.
    pub async fn stop(self) {
        self.hub.stop();
        for task in self.tasks {
            let _ = task.await; // What failed has said so.
        }
    }
}

/// Something that ends with the node.
async fn until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stop.changed() => {}
    }
}

/// Gives each new state of the network's own model; sessions stay with the state that they began with.
async fn own(models: Models, chain: Chain, model: watch::Sender<Option<Arc<Model>>>, card: Option<Gpu>) {
    let mut current = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let root = chain.head().state.model().root;
        if current == Some(root) {
            continue;
        }
        let from = models.clone();
        let state = move || Some(Model::own(*from.config(), from.get(&root)?));
        match tokio::task::spawn_blocking(state).await {
            Ok(Some(Ok(state))) => {
                current = Some(root);
                model.send_replace(Some(Arc::new(state.on_card(card.clone()))));
            }
            Ok(Some(Err(e))) => tracing::warn!(error = %e, "the network's model is not served"),
            Ok(None) | Err(_) => {} // It has not come yet.
        }
    }
}
