//! Inference in a node that runs: serves a checkpoint, or each new state of the network's own model; reaches other nodes; answers the API.

use super::{
    api::{Api, Bounds},
    audit,
    court::{self, Court},
    draft::Guess,
    host::{self, Hosting, Share, host},
    hub::Hub,
    links::Links,
    model::Model,
    payment::{Ask, Cashier, Pays},
    serve::progress,
};
use crate::{
    error::NodeError,
    service::{chain::Chain, models::Models},
};
use ailo_protocol::{Hash, Keypair, inference::announce::Announce, keys, net};
use ailo_training::engine::Dtype;
use std::{path::PathBuf, sync::Arc};
use tokio::sync::watch;

/// Bytes for sessions with the network's own model.
const OWN_MEMORY: u64 = 256 << 20;
/// Seconds.
const HOUR: f64 = 3600.0;
/// How often a node considers serving other layers, about.
const LOOK_AROUND: std::time::Duration = std::time::Duration::from_secs(60);
/// How often it is looked whether the state of the head has come.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// A checkpoint that a node serves.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub folder: PathBuf,
    /// Which layers.
    pub share: Share,
    /// How weights are kept.
    pub dtype: Option<Dtype>,
    /// Bytes for sessions.
    pub memory: u64,
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
    /// Starts what is to run until `stop`. A checkpoint is opened first.
    pub async fn start(
        (checkpoint, checks, audits): (Option<Checkpoint>, f64, f64),
        (ask, pays, receipts): (Ask, Option<Pays>, PathBuf),
        ((key, network), court): ((Keypair, Hash), Court),
        net: net::Handle,
        (models, chain): (Models, Chain),
        stop: watch::Receiver<bool>,
    ) -> Result<Inference, NodeError> {
        let cashier = (ask != Ask::Free).then(|| Cashier::new(chain.clone(), (key.clone(), network), ask, receipts));
        let hub = Hub::new(key.clone(), network, checks, (cashier.clone(), pays), Some(court));
        hub.connect(Links::start(net.clone(), &hub, stop.clone()));
        let (model, current) = watch::channel(None);
        let (served, announced) = watch::channel(None);
        let api = Api::new(hub.clone(), Some(net.clone()), current.clone(), Bounds::default());
        let mut tasks = vec![tokio::spawn(host::announce(hub.clone(), net, key, announced, stop.clone()))];
        tasks.push(tokio::spawn(court::run(hub.clone(), models.clone(), current.clone(), stop.clone())));
        if audits > 0.0 {
            let each = std::time::Duration::from_secs_f64(HOUR / audits);
            tasks.push(tokio::spawn(audit::run(hub.clone(), current, each, stop.clone())));
        }
        tasks.extend(cashier.map(|cashier| tokio::spawn(cashier.run(stop.clone()))));
        if let Some(Checkpoint { folder, share, dtype, memory, draft }) = checkpoint {
            let opened = tokio::task::spawn_blocking(move || Model::open(&folder, dtype, &mut progress())).await;
            let opened = Arc::new(opened.map_err(|e| NodeError::io("open the model", std::io::Error::other(e)))??);
            let (hub, mut stop) = (hub.clone(), stop);
            tasks.push(tokio::spawn(async move {
                let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
                let moves = matches!(share, Share::Bytes(_));
                let mut next = Some(share);
                loop {
                    if let Some(share) = next.take() {
                        let draft = draft.clone();
                        let hosting = Hosting { model: opened.clone(), share, threads, memory, niceness: 0, draft };
                        tokio::select! {
                            hosted = host(&hub, hosting) => match hosted {
                                // Nobody is left to tell at the end.
                                Ok(hosted) => drop((served.send(hosted), model.send(Some(opened.clone())))),
                                Err(e) => tracing::error!(error = %e, "the model is not served"),
                            },
                            _ = stop.changed() => return,
                        }
                    }
                    // Not all at once, or all would move to the same place.
                    let wait = LOOK_AROUND.mul_f64(0.5 + f64::from(keys::random_bytes()[0]) / 255.0);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = stop.changed() => return,
                    }
                    let span = served.borrow().as_ref().map(|announce| announce.first..announce.end);
                    if let Some(span) = span.filter(|_| moves) {
                        let total = opened.shape.layers as u32;
                        let weak = hub.known().needs(hub.node(), &opened.id, total, &span);
                        if let Some(to) = weak {
                            tracing::info!(from = ?span, ?to, "others serve these layers: moves to where fewer do");
                            next = Some(Share::Layers(to.start as usize..to.end as usize));
                        }
                    }
                }
            }));
        } else {
            tasks.push(tokio::spawn(own(hub.clone(), models, chain, (model, served), stop)));
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

/// Serves each new state of the network's own model; sessions stay with the state that they began with.
async fn own(
    hub: Arc<Hub>,
    models: Models,
    chain: Chain,
    (model, served): (watch::Sender<Option<Arc<Model>>>, watch::Sender<Option<Announce>>),
    mut stop: watch::Receiver<bool>,
) {
    let mut current = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            _ = stop.changed() => return,
        }
        let root = chain.head().state.model().root;
        if current == Some(root) {
            continue;
        }
        let from = models.clone();
        let held = tokio::task::spawn_blocking(move || from.get(&root)).await;
        let Ok(Some(held)) = held else { continue };
        let state = Arc::new(Model::own(*models.config(), held));
        let share = Share::Layers(0..state.shape.layers);
        let hosting = Hosting {
            model: state.clone(),
            share,
            threads: 1,
            memory: OWN_MEMORY,
            niceness: 5,
            draft: Guess::default(),
        };
        match host(&hub, hosting).await {
            Ok(hosted) => {
                current = Some(root);
                let _ = (served.send(hosted), model.send(Some(state))); // Nobody is left to tell at the end.
            }
            Err(e) => tracing::warn!(error = %e, "the network's model is not served"),
        }
    }
}
