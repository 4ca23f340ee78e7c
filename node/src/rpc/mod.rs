//! JSON-RPC over HTTP and WebSocket at `/rpc`, on axum. Methods take named parameters and answer with height and state
//! root beside their value ([`types`] holds every shape). Nothing here can spend: transactions come signed.
//!
//! | method | parameters | answer |
//! | --- | --- | --- |
//! | `ailo_status` | | [`Status`] |
//! | `ailo_block` | `height` or `hash` | [`BlockView`] |
//! | `ailo_transaction` | `id` | [`TransactionView`] |
//! | `ailo_account` | `address` | [`AccountView`] |
//! | `ailo_owner` | `name` | [`AccountView`] of who has the user name |
//! | `ailo_validators` | | [`ValidatorsView`] |
//! | `ailo_proposals` | | [`ProposalsView`] |
//! | `ailo_market` | | [`MarketView`] |
//! | `ailo_history` | `address` or `node`, `cursor`?, `limit`? | [`HistoryView`] |
//! | `ailo_round` | `number` (the open one) | [`RoundView`], or null for one that the ledger does not keep |
//! | `ailo_model` | | [`ModelStatus`] |
//! | `ailo_peers` | | [`PeersView`] |
//! | `ailo_submit` | `transaction`: canonical bytes in hexadecimal | [`Submitted`] |
//! | `ailo_submitMany` | `transactions`: at most 256 of the same | [`SubmittedMany`] |
//! | `ailo_lightBlock`, `ailo_headers`, `ailo_proof`, `ailo_transactionProof` | | see [`light`] |
//! | `ailo_subscribeBlocks` | | a [`Header`](ailo_ledger::Header) for each new block |

pub mod light;
pub mod params;
pub mod types;

use crate::{
    error::NodeError,
    inference::{
        api::access::{Access, by_our_names},
        hub::Hub,
    },
    sensors::Sensors,
    service::{
        anchor::Anchor,
        chain::{Chain, Head, SubmitError},
        rounds::Progress,
    },
};
use ailo_ledger::{
    Transaction,
    block::Validator,
    state::{Event, Iou, Phase, State, TransferStatus},
    store::{MAX_PAGE, Subject},
};
use ailo_protocol::{Address, Amount, Genesis, Hash, NodeId, inference::announce::Announce, net};
use jsonrpsee::{
    server::{
        BatchRequestConfig, RpcModule, ServerBuilder, ServerConfig, ServerHandle, SubscriptionMessage, stop_channel,
    },
    types::{ErrorObjectOwned, Params},
};
use params::*;
use serde::de::DeserializeOwned;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;
use types::*;

/// Bounds of the server.
const MAX_CONNECTIONS: u32 = 512;
const MAX_REQUEST_BYTES: u32 = 1 << 20;
const MAX_RESPONSE_BYTES: u32 = 16 << 20;
const MAX_BATCH: u32 = 64;
const MAX_SUBSCRIPTIONS: u32 = 16;
/// Nodes that serve text in a status, at most.
const MAX_SERVING: usize = 64;

/// Error codes, beside JSON-RPC's own.
mod code {
    /// The request's parameters are not what the method takes.
    pub const INVALID_PARAMS: i32 = -32602;
    /// No such block, transaction or cursor.
    pub const NOT_FOUND: i32 = -32001;
    /// The ledger or mempool refused a transaction.
    pub const REFUSED: i32 = -32002;
    /// The node cannot do this right now.
    pub const UNAVAILABLE: i32 = -32003;
}

/// What the methods read.
pub struct Context {
    /// The network.
    pub genesis: Arc<Genesis>,
    /// This node.
    pub node: NodeId,
    /// The wallet it works for.
    pub wallet: Address,
    /// Whether it trains.
    pub trains: bool,
    /// Whether it was asked to validate.
    pub validator: bool,
    /// The ledger.
    pub chain: Chain,
    /// What the trust in it rests on, where there are others to trust.
    pub anchor: Option<watch::Receiver<Anchor>>,
    /// Peers.
    pub net: net::Handle,
    /// Who serves what.
    pub hub: Arc<Hub>,
    /// What training does.
    pub progress: watch::Receiver<Progress>,
    /// Temperatures and power, where the machine tells.
    pub sensors: watch::Receiver<Arc<Sensors>>,
    /// Whether the supply law held at the height that was looked at last: it takes a walk over the whole state.
    pub law: Mutex<Option<(u64, bool)>>,
}

type Answer<T> = Result<At<T>, ErrorObjectOwned>;

fn error(code: i32, message: impl Into<String>) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(code, message, None::<()>)
}

fn invalid(why: impl Into<String>) -> ErrorObjectOwned {
    error(code::INVALID_PARAMS, why)
}

fn parse<T: DeserializeOwned>(params: &Params<'_>) -> Result<T, ErrorObjectOwned> {
    params.parse().map_err(|e| {
        invalid(format!(
            "these parameters are not what the method takes: {}",
            e.data().map_or(e.message(), |d| d.get())
        ))
    })
}

impl Context {
    fn at<T>(&self, head: &Head, value: T) -> At<T> {
        At { height: head.state.height(), state_root: head.state.root(), value }
    }

    /// What `ailo_status` answers; the live line shows it too.
    pub fn status(&self) -> At<Status> {
        let head = self.chain.head();
        let state = &head.state;
        let params = &self.genesis.params;
        let progress = self.progress.borrow().clone();
        let round = state.round();
        let mut notes = Vec::new();
        if params.ledger.confirmations < 10 {
            notes.push(format!(
                "transfers need {} confirmations here, not ten: a development network",
                params.ledger.confirmations
            ));
        }
        notes.extend(self.anchor.as_ref().and_then(|anchor| anchor.borrow().note()));
        let unprotected = match round.phase {
            Phase::Gather => (1..4).contains(&state.eligible().len()),
            _ => !round.protected,
        };
        if unprotected {
            notes.push(format!(
                "round {} is UNPROTECTED: with fewer than four participants nothing outvotes a liar",
                round.number
            ));
        }
        let validating = state.validators().power(&self.node) > 0;
        if self.validator && !validating {
            notes.push(crate::service::duties::waits_for(state, &self.node, &self.wallet));
        }
        if let Some(node) = state.node(&self.node)
            && node.wallet != self.wallet
        {
            notes.push(format!(
                "rewards go to {}: that is the node's wallet on the ledger, and `ailo-node bind` gives it another one",
                node.wallet
            ));
        }
        let supply = state.supply();
        self.at(
            &head,
            Status {
                version: env!("CARGO_PKG_VERSION").into(),
                network: state.network(),
                network_name: self.genesis.name.clone(),
                node: self.node,
                wallet: self.wallet,
                validating,
                training: self.trains,
                block_time_ms: state.time_ms(),
                block: state.last_block(),
                epoch: state.epoch(),
                peers: count(self.net.peers().len()),
                listen: self.net.listeners().iter().map(ToString::to_string).collect(),
                reachability: self.net.reachability().into(),
                confirmations: params.ledger.confirmations,
                validators: count(state.validators().0.len()),
                seats: count(state.seats(state.epoch()).map_or(0, |seats| seats.0.len())),
                round: RoundStatus {
                    number: round.number,
                    phase: round.phase.to_string(),
                    participants: count(round.participants.len()),
                    tolerates: round.f,
                    committed: count(round.contributions.len()),
                    unprotected,
                    step: if progress.round == round.number { progress.step } else { 0 },
                    steps: params.training.inner_steps,
                    tokens_per_s: progress.tokens_per_s,
                    loss: progress.loss,
                },
                model: self.model(&head),
                serving: self.serving(),
                account: account_view(&head, &self.wallet),
                supply: SupplyView {
                    minted: supply.minted,
                    free: supply.free,
                    pending: supply.pending,
                    staked: supply.staked,
                    unbonding: supply.unbonding,
                    escrow: supply.escrow,
                    burned: supply.burned,
                    law_holds: self.law_holds(state),
                },
                notes,
            },
        )
    }

    /// Who serves what; of many, some.
    pub(crate) fn serving(&self) -> Vec<ServingView> {
        let view = |one: &Announce| ServingView {
            node: one.node,
            name: one.name.clone(),
            model: one.model,
            first: one.first,
            end: one.end,
            total: one.total,
            dtype: one.dtype.clone(),
            tokens_per_s: 1e6 / f64::from(one.token_us.max(1)),
            memory: one.memory,
            room: one.room,
            price: one.price,
        };
        let mut all: Vec<ServingView> = self.hub.known().all().map(view).collect();
        all.sort_by_key(|one| (one.node != self.node, one.model, one.first, one.end, one.node));
        all.truncate(MAX_SERVING);
        all
    }

    fn law_holds(&self, state: &State) -> bool {
        let mut known = self.law.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((height, holds)) if height == state.height() => holds,
            _ => known.insert((state.height(), state.check_supply().is_ok())).1,
        }
    }

    fn model(&self, head: &Head) -> ModelStatus {
        let model = head.state.model();
        let progress = self.progress.borrow();
        ModelStatus {
            rounds: model.steps,
            root: model.root,
            held_out_loss: model.loss.map(|micro| micro as f64 / 1e6),
            local_rounds: progress.local_rounds,
            local_root: progress.local_root,
            parameters: ailo_training::model::parameter_count(&self.genesis.params.model) as u64,
        }
    }

    fn block(&self, params: &Params<'_>) -> Answer<BlockView> {
        let name = parse::<BlockParams>(params)?.name().map_err(invalid)?;
        let head = self.chain.head();
        let height = match name {
            BlockName::Height(height) => Some(height),
            BlockName::Id(hash) => self.chain.height_of(&hash),
        };
        let (block, certificate) = height
            .and_then(|height| self.chain.block(height))
            .ok_or_else(|| error(code::NOT_FOUND, "there is no such block here"))?;
        let hash = block.id();
        let transactions = block
            .transactions
            .into_iter()
            .map(|transaction| TransactionInBlock { id: transaction.id(), transaction })
            .collect();
        Ok(self.at(&head, BlockView { hash, header: block.header, transactions, certificate }))
    }

    async fn transaction(&self, params: &Params<'_>) -> Answer<TransactionView> {
        let TransactionParams { id } = parse(params)?;
        // Asked again after the mempool: meanwhile it may have gone from there into a block.
        let mut included = self.chain.transaction(&id);
        if included.is_none() {
            if let Some(transaction) = self.chain.waiting(&id).await {
                let view = TransactionView {
                    id,
                    status: "waiting".into(),
                    block_height: None,
                    attested_by: vec![],
                    reported_by: vec![],
                    transaction,
                };
                return Ok(self.at(&self.chain.head(), view));
            }
            included = self.chain.transaction(&id);
        }
        let unknown = || error(code::NOT_FOUND, "this node knows no such transaction");
        let (transaction, height) = included.ok_or_else(unknown)?;
        // The store knows a block a moment before the head does.
        let mut heads = self.chain.heads();
        let shown = heads.wait_for(|head| head.state.height() >= height).await;
        let head = shown.map_err(|_| error(code::UNAVAILABLE, "the node is stopping"))?.clone();
        let standing = head.state.transfer(&id);
        let is_transfer = matches!(transaction.unsigned.body, ailo_ledger::Body::Transfer { .. });
        let status = match standing.map(|t| t.status) {
            Some(TransferStatus::Pending) => "pending",
            Some(TransferStatus::Confirmed) => "confirmed",
            None if is_transfer => self.transfer_end(&id, &head.state.account_of(&transaction.unsigned.signer), height),
            None => "included",
        };
        let view = TransactionView {
            id,
            status: status.into(),
            block_height: Some(height),
            attested_by: head.state.confirmers(&id),
            reported_by: head.state.reports(&id).map(|(node, _)| node).collect(),
            transaction,
        };
        Ok(self.at(&head, view))
    }

    /// How a transfer ended that the ledger's state no longer holds: its sender's history since the block at `height` tells.
    pub(crate) fn transfer_end(&self, id: &Hash, sender: &Address, height: u64) -> &'static str {
        let mut before = None;
        loop {
            let page = self.chain.history(&Subject::Wallet(*sender), before, MAX_PAGE);
            for item in &page.items {
                match &item.event {
                    Event::TransferRefunded { id: ended, .. } if ended == id => return "refunded",
                    Event::TransferReversed { id: ended, .. } if ended == id => return "reversed",
                    Event::TransferFinal { id: ended, .. } if ended == id => return "final",
                    _ => {}
                }
            }
            match page.next {
                Some(next) if next.height >= height => before = Some(next),
                _ => return "included",
            }
        }
    }

    fn account(&self, params: &Params<'_>) -> Answer<AccountView> {
        let AccountParams { address } = parse(params)?;
        let head = self.chain.head();
        Ok(self.at(&head, account_view(&head, &address)))
    }

    fn owner(&self, params: &Params<'_>) -> Answer<AccountView> {
        let OwnerParams { name } = parse(params)?;
        let head = self.chain.head();
        let nobody = || error(code::NOT_FOUND, format!("nobody has the user name {name}"));
        let owner = head.state.owner(&name).ok_or_else(nobody)?;
        Ok(self.at(&head, account_view(&head, &owner)))
    }

    fn validators(&self) -> Answer<ValidatorsView> {
        let head = self.chain.head();
        let set = head.state.validators();
        let view = |validator: &Validator| {
            let node = head.state.node(&validator.node);
            ValidatorView {
                node: validator.node,
                wallet: node.map(|node| node.wallet),
                power: validator.power,
                stake: node.map(|node| node.stake).unwrap_or_default(),
                jailed_until: node.and_then(|node| node.jailed_until),
                lots: head.state.lot_due(&validator.node).map(|due| due.left),
            }
        };
        let view = ValidatorsView {
            founders: !head.state.founders_are_latched_out(),
            total_power: set.total_power(),
            stake_to_validate: head.state.stake_to_validate(),
            age_ms: head.state.age_ms(),
            validators: set.0.iter().map(view).collect(),
        };
        Ok(self.at(&head, view))
    }

    fn proposals(&self) -> Answer<ProposalsView> {
        let head = self.chain.head();
        let proposals = head.state.polls().map(|(number, poll)| ProposalView { number, poll: poll.clone() });
        let supply = head.state.supply();
        let view = ProposalsView {
            proposals: proposals.collect(),
            changed: head.state.changes().to_vec(),
            staked: Amount(supply.staked.0.saturating_add(supply.unbonding.0)),
            quorum_ppm: head.state.params().ledger.poll_quorum_ppm,
            age_ms: head.state.age_ms(),
        };
        Ok(self.at(&head, view))
    }

    fn market(&self) -> Answer<MarketView> {
        let head = self.chain.head();
        let (market, params) = (*head.state.market(), &head.state.params().inference);
        let view = MarketView {
            price: market.price,
            unit_tokens: params.unit_tokens,
            most: market.price.share(params.price_cap_ppm).unwrap_or(Amount(u64::MAX)),
            epoch: head.state.epoch(),
            paid: market.paid,
            servers: market.servers,
            age_ms: head.state.age_ms(),
        };
        Ok(self.at(&head, view))
    }

    fn history(&self, params: &Params<'_>) -> Answer<HistoryView> {
        let by: HistoryParams = parse(params)?;
        let head = self.chain.head();
        let before = by.before().map_err(invalid)?;
        let subject = by.subject().map_err(invalid)?;
        let page = self.chain.history(&subject, before, by.limit());
        let entries = page.items.into_iter().map(|item| HistoryEntry {
            height: item.at.height,
            time_ms: item.time_ms,
            event: item.event,
        });
        let next = page.next.map(cursor_text);
        Ok(self.at(&head, HistoryView { entries: entries.collect(), next }))
    }

    fn round(&self, params: &Params<'_>) -> Answer<Option<RoundView>> {
        let RoundParams { number } = if params.len_bytes() == 0 { RoundParams::default() } else { parse(params)? };
        let head = self.chain.head();
        let open = head.state.round();
        let view = match number.filter(|number| *number != open.number) {
            None => Some((open, None)),
            Some(number) => head.state.past(number).map(|past| {
                let view = PastView {
                    closed_age: past.closed_age,
                    pot: past.pot,
                    bonus: past.bonus,
                    shares: past.shares.clone(),
                    replay_share: past.replay_share,
                    settled: past.settled,
                    replays: head.state.replays_of(number).map(|(maker, replay)| (maker, replay.clone())).collect(),
                };
                (&past.round, Some(view))
            }),
        };
        let score = |id: &NodeId| {
            let node = head.state.node(id)?;
            Some((*id, Scores { quality_ppm: node.score_ppm, own_ppm: node.own_ppm }))
        };
        let view = view.map(|(round, past)| RoundView {
            round: round.clone(),
            past,
            scores: round.participants.iter().filter_map(score).collect(),
        });
        Ok(self.at(&head, view))
    }

    fn peers(&self) -> Answer<PeersView> {
        let head = self.chain.head();
        let peers = self.net.peers().into_iter().map(|peer| PeerView {
            node: peer.node,
            address: peer.address.to_string(),
            rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        });
        Ok(self.at(&head, PeersView { peers: peers.collect() }))
    }

    async fn submit(&self, params: &Params<'_>) -> Answer<Submitted> {
        let coded = |code: i32, name: &str, why: String| {
            ErrorObjectOwned::owned(code, why, Some(RefusalView { code: name.into() }))
        };
        let transaction = parse::<SubmitParams>(params)?.transaction();
        let transaction = transaction.map_err(|why| coded(code::INVALID_PARAMS, "MALFORMED", why))?;
        let id = self.chain.submit(transaction).await.map_err(|e| match &e {
            SubmitError::Refused(reason) => coded(code::REFUSED, reason.code(), e.to_string()),
            SubmitError::Stopped => error(code::UNAVAILABLE, e.to_string()),
        })?;
        Ok(self.at(&self.chain.head(), Submitted { id }))
    }

    async fn submit_many(&self, params: &Params<'_>) -> Answer<SubmittedMany> {
        let decoded = parse::<SubmitManyParams>(params)?.transactions().map_err(invalid)?;
        let good = decoded.iter().flatten().cloned().collect();
        let outcomes = self.chain.submit_all(good).await.map_err(|e| error(code::UNAVAILABLE, e.to_string()))?;
        let mut outcomes = outcomes.into_iter();
        let outcome = |decoded: Option<Transaction>| match decoded.and_then(|_| outcomes.next()) {
            Some(Ok(id)) => SubmitOutcome { id: Some(id), code: None, message: None },
            Some(Err(e)) => SubmitOutcome { id: None, code: Some(e.code().into()), message: Some(e.to_string()) },
            None => SubmitOutcome { id: None, code: Some("MALFORMED".into()), message: None },
        };
        let outcomes = decoded.into_iter().map(outcome).collect();
        Ok(self.at(&self.chain.head(), SubmittedMany { outcomes }))
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(crate) fn account_view(head: &Head, address: &Address) -> AccountView {
    let address = head.state.account_at(address);
    let account = head.state.account(&address);
    let deposit = head.state.deposit(&address);
    let debt = |(transfer, iou): (Hash, &Iou)| DebtView { transfer, creditor: iou.creditor, amount: iou.amount };
    AccountView {
        address,
        free: account.free,
        pending: account.incoming,
        staked: account.staked,
        unbonding: account.unbonding,
        deposit: DepositView {
            amount: deposit.amount,
            leaving: deposit.leaving,
            free_in_ms: deposit.due_age.saturating_sub(head.state.age_ms()),
            short: deposit.short,
        },
        nonce: account.nonce,
        owes: account.owes,
        debts: head.state.debts(&address).take(MAX_PAGE).map(debt).collect(),
        stakes: head.state.stakes(&address).take(MAX_PAGE).map(|(node, amount)| StakeView { node, amount }).collect(),
        name: account.name,
        key: account.key,
        recoverable: account.recovery.is_some(),
        recoveries: account.recoveries,
    }
}

fn methods(context: Arc<Context>) -> Result<RpcModule<Arc<Context>>, NodeError> {
    let mut module = RpcModule::new(context);
    let twice =
        |e: jsonrpsee::server::RegisterMethodError| NodeError::Rpc(format!("a method is registered twice: {e}"));
    module.register_blocking_method("ailo_status", |_, c, _| Answer::Ok(c.status())).map_err(twice)?;
    module.register_blocking_method("ailo_block", |p, c, _| c.block(&p)).map_err(twice)?;
    module
        .register_async_method("ailo_transaction", |p, c, _| async move { c.transaction(&p).await })
        .map_err(twice)?;
    module.register_method("ailo_account", |p, c, _| c.account(&p)).map_err(twice)?;
    module.register_method("ailo_owner", |p, c, _| c.owner(&p)).map_err(twice)?;
    module.register_method("ailo_validators", |_, c, _| c.validators()).map_err(twice)?;
    module.register_method("ailo_proposals", |_, c, _| c.proposals()).map_err(twice)?;
    module.register_method("ailo_market", |_, c, _| c.market()).map_err(twice)?;
    module.register_blocking_method("ailo_history", |p, c, _| c.history(&p)).map_err(twice)?;
    module.register_method("ailo_round", |p, c, _| c.round(&p)).map_err(twice)?;
    module
        .register_method("ailo_model", |_, c, _| {
            let head = c.chain.head();
            Answer::Ok(c.at(&head, c.model(&head)))
        })
        .map_err(twice)?;
    module.register_method("ailo_peers", |_, c, _| c.peers()).map_err(twice)?;
    module.register_async_method("ailo_submitMany", |p, c, _| async move { c.submit_many(&p).await }).map_err(twice)?;
    module.register_async_method("ailo_submit", |p, c, _| async move { c.submit(&p).await }).map_err(twice)?;
    light::register(&mut module).map_err(twice)?;
    module
        .register_subscription(
            "ailo_subscribeBlocks",
            "ailo_newBlock",
            "ailo_unsubscribeBlocks",
            |_, pending, c, _| async move {
                let mut heads = c.chain.heads();
                let Ok(sink) = pending.accept().await else { return };
                let mut next = heads.borrow_and_update().state.height() + 1;
                // Every block once and in order; a slow reader is served from the store, not from a queue.
                loop {
                    while let Some((block, _)) = c.chain.block(next) {
                        let Ok(text) = serde_json::value::to_raw_value(&block.header) else { return };
                        if sink.send(SubscriptionMessage::from(text)).await.is_err() {
                            return;
                        }
                        next += 1;
                    }
                    tokio::select! {
                        changed = heads.changed() => if changed.is_err() { return },
                        () = sink.closed() => return,
                    }
                }
            },
        )
        .map_err(twice)?;
    Ok(module)
}

/// A running server.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    handle: ServerHandle,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Binds and serves, with `more` routes beside its own, under the names that `access` knows.
    pub async fn start(
        address: SocketAddr,
        context: Arc<Context>,
        more: axum::Router,
        access: Arc<Access>,
    ) -> Result<Server, NodeError> {
        let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::AddrInUse => NodeError::Usage(format!(
                "the address {address} is in use: stop what serves there, or choose another with --http 127.0.0.1:PORT"
            )),
            _ => NodeError::io(format!("serve on {address}"), e),
        })?;
        let address = listener.local_addr().map_err(|e| NodeError::io(format!("serve on {address}"), e))?;
        let config = ServerConfig::builder()
            .max_connections(MAX_CONNECTIONS)
            .max_request_body_size(MAX_REQUEST_BYTES)
            .max_response_body_size(MAX_RESPONSE_BYTES)
            .max_subscriptions_per_connection(MAX_SUBSCRIPTIONS)
            .set_batch_request_config(BatchRequestConfig::Limit(MAX_BATCH))
            .build();
        let (stop, handle) = stop_channel();
        let rpc = ServerBuilder::with_config(config).to_service_builder().build(methods(context)?, stop.clone());
        let router = axum::Router::new()
            .route_service(
                "/rpc",
                tower::service_fn(move |request| {
                    let mut rpc = rpc.clone();
                    async move {
                        let response = tower::Service::call(&mut rpc, request).await;
                        // Only a broken connection makes jsonrpsee fail here; the connection is gone then.
                        Ok::<_, std::convert::Infallible>(
                            response.unwrap_or_else(|_| jsonrpsee::server::http::response::internal_error()),
                        )
                    }
                }),
            )
            .route("/health", axum::routing::get(|| async { "ok" }))
            .layer(axum::middleware::from_fn_with_state(access, by_our_names))
            .merge(more);
        let task = tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.shutdown()).await;
            if let Err(e) = served {
                tracing::error!(error = %e, "the HTTP server ended");
            }
        });
        Ok(Server { address, handle, task })
    }

    /// Stops serving; connections that do not end by themselves are dropped.
    pub async fn stop(self) {
        let _ = self.handle.stop(); // already stopped is stopped
        if tokio::time::timeout(std::time::Duration::from_secs(1), self.task).await.is_err() {
            tracing::debug!("some HTTP connections were cut");
        }
    }
}
