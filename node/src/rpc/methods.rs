//! All methods, in one table: how each is called, what it takes, what it answers, which errors it has. The server registers what stands
//! here and nothing else, and the OpenRPC document and `docs/rpc.md` describe it, so that none is forgotten.

use super::{
    Answer, Context,
    errors::{Code, Failure, invalid},
    openrpc,
    params::*,
    subscriptions::{self, Pending},
    types::*,
};
use crate::{
    connections::{Flow, Unsent},
    operator::{Controls, Operator},
};
use ailo_ledger::Header;
use axum::http::Extensions;
use jsonrpsee::{
    server::{IntoResponse, RegisterMethodError, ResponsePayload, RpcModule},
    types::{ErrorObjectOwned, Params},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::to_raw_value;
use std::sync::Arc;

type Module = RpcModule<Context>;
type Registered = Result<(), RegisterMethodError>;
/// A type's schema.
pub type Describe = fn(&mut SchemaGenerator) -> Schema;

/// A method.
pub struct Method {
    /// What it is called by.
    pub name: &'static str,
    /// What it does, in a sentence or two.
    pub about: &'static str,
    /// Whom it is for.
    pub part: Part,
    /// Errors that it may answer with.
    pub errors: Vec<Code>,
    /// What it takes: an object.
    pub params: Describe,
    /// What it answers.
    pub result: Describe,
    /// Of a subscription: what is told, and how.
    pub told: Option<Told>,
    register: Box<dyn Fn(&mut Module) -> Registered>,
}

/// What a method belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everybody's questions, and transactions.
    Everybody,
    /// What light clients check by themselves.
    Light,
    /// The operator's.
    Operator,
    /// Over WebSocket alone.
    Subscription,
}

/// What a subscription tells.
pub struct Told {
    /// The method's name in notifications.
    pub notification: &'static str,
    /// What ends it.
    pub unsubscribe: &'static str,
    /// What each notification holds.
    pub item: Describe,
}

fn parse<P: DeserializeOwned>(params: &Params<'_>) -> Result<P, Failure> {
    let text = params.as_str().unwrap_or("{}");
    serde_json::from_str(text).map_err(|e| invalid(format!("these parameters are not what the method takes: {e}")))
}

/// An answer, which a WebSocket's connection counts until it is sent.
struct Reply<T>(Result<T, Failure>, Option<Unsent>);

/// A call begins.
fn begin(extensions: &Extensions) -> Option<Unsent> {
    extensions.get::<Arc<Flow>>().map(Flow::begin)
}

impl<T: Serialize + Clone + 'static> IntoResponse for Reply<T> {
    type Output = T;

    fn into_response(self) -> ResponsePayload<'static, T> {
        let payload = match self.0 {
            Ok(value) => ResponsePayload::success(value),
            Err(failure) => ResponsePayload::error(ErrorObjectOwned::from(failure)),
        };
        let Some(unsent) = self.1 else { return payload };
        let (payload, sent) = payload.notify_on_completion();
        tokio::spawn(async move {
            let _ = sent.await; // or the connection has gone
            drop(unsent);
        });
        payload
    }
}

impl Method {
    fn new<P: JsonSchema, T: JsonSchema>(
        (name, about): (&'static str, &'static str),
        (part, errors): (Part, &[Code]),
        register: impl Fn(&mut Module) -> Registered + 'static,
    ) -> Method {
        let mut errors = errors.to_vec();
        if !errors.contains(&Code::InvalidParams) {
            errors.insert(0, Code::InvalidParams);
        }
        Method {
            name,
            about,
            part,
            errors,
            params: P::json_schema,
            result: |generator| generator.subschema_for::<T>(),
            told: None,
            register: Box::new(register),
        }
    }

    fn light(self) -> Method {
        Method { part: Part::Light, ..self }
    }
}

/// A method that answers at once, out of memory.
fn at_once<P, T>(
    name: &'static str,
    about: &'static str,
    errors: &[Code],
    answer: fn(&Context, P) -> Answer<T>,
) -> Method
where
    P: DeserializeOwned + JsonSchema + 'static,
    T: Serialize + Clone + JsonSchema + 'static,
{
    Method::new::<P, At<T>>((name, about), (Part::Everybody, errors), move |module| {
        let ask = move |params: Params<'_>, context: &Context, extensions: &Extensions| {
            let unsent = begin(extensions);
            Reply(parse(&params).and_then(|params| answer(context, params)), unsent)
        };
        module.register_method(name, ask).map(|_| ())
    })
}

/// A method that may wait for the disk, or computes a while.
fn reading<P, T>(
    name: &'static str,
    about: &'static str,
    errors: &[Code],
    answer: fn(&Context, P) -> Answer<T>,
) -> Method
where
    P: DeserializeOwned + JsonSchema + Send + 'static,
    T: Serialize + Clone + JsonSchema + 'static,
{
    Method::new::<P, At<T>>((name, about), (Part::Everybody, &with_unavailable(errors)), move |module| {
        let ask = move |params: Params<'static>, context: Arc<Context>, extensions: Extensions| async move {
            let unsent = begin(&extensions);
            // What is long takes a while to write, too.
            let written = |answer: At<T>| {
                to_raw_value(&answer).map_err(|e| Code::Unavailable.says(format!("the answer can't be written: {e}")))
            };
            let read = async {
                let params = parse(&params)?;
                context.read(move |context| answer(context, params).and_then(written)).await?
            };
            Reply(read.await, unsent)
        };
        module.register_async_method(name, ask).map(|_| ())
    })
}

/// Whoever reads may have to try again.
fn with_unavailable(errors: &[Code]) -> Vec<Code> {
    let all = errors.iter().copied().filter(|code| *code != Code::Unavailable);
    all.chain([Code::Unavailable]).collect()
}

/// A method that asks other parts of the node.
fn asking<P, T, F>(name: &'static str, about: &'static str, errors: &[Code], answer: fn(Arc<Context>, P) -> F) -> Method
where
    P: DeserializeOwned + JsonSchema + Send + 'static,
    T: Serialize + Clone + JsonSchema + 'static,
    F: Future<Output = Answer<T>> + Send + 'static,
{
    Method::new::<P, At<T>>((name, about), (Part::Everybody, errors), move |module| {
        let ask = move |params: Params<'static>, context: Arc<Context>, extensions: Extensions| async move {
            let unsent = begin(&extensions);
            let asked = async { answer(context, parse(&params)?).await };
            Reply(asked.await, unsent)
        };
        module.register_async_method(name, ask).map(|_| ())
    })
}

/// A method of the operator's.
fn operating<P>(name: &'static str, about: &'static str, act: fn(&Operator, P) -> Result<(), Failure>) -> Method
where
    P: DeserializeOwned + JsonSchema + 'static,
{
    Method::new::<P, At<Controls>>((name, about), (Part::Operator, &[Code::Unauthorized]), move |module| {
        let ask = move |params: Params<'_>, context: &Context, extensions: &Extensions| {
            let unsent = begin(extensions);
            Reply(context.operate(extensions, |operator| act(operator, parse(&params)?)), unsent)
        };
        module.register_method(name, ask).map(|_| ())
    })
}

/// A subscription: `follow` tells until its reader goes away.
fn telling<P, T, F>(
    [name, notification, unsubscribe]: [&'static str; 3],
    about: &'static str,
    errors: &[Code],
    follow: fn(Arc<Context>, P, Pending) -> F,
) -> Method
where
    P: DeserializeOwned + JsonSchema + Send + 'static,
    T: JsonSchema,
    F: Future<Output = ()> + Send + 'static,
{
    let register = move |module: &mut Module| {
        let follow = move |params: Params<'static>, pending: Pending, context, _| async move {
            match parse(&params) {
                Ok(params) => follow(context, params, pending).await,
                Err(failure) => pending.reject(ErrorObjectOwned::from(failure)).await,
            }
        };
        module.register_subscription(name, notification, unsubscribe, follow).map(|_| ())
    };
    let told = Told { notification, unsubscribe, item: |generator| generator.subschema_for::<T>() };
    let method = Method::new::<P, u64>((name, about), (Part::Subscription, errors), register);
    Method { told: Some(told), ..method }
}

/// The table.
pub fn all() -> Vec<Method> {
    use Code::*;
    vec![
        at_once(
            "ailo_status",
            "What the node is and does: sync, round, model, wallet, supply.",
            &[],
            Context::status_now,
        ),
        at_once("ailo_model", "The model that the ledger names, and the one that the node holds.", &[], Context::model),
        at_once("ailo_peers", "Whom the node is connected to.", &[], Context::peers),
        at_once("ailo_series", "What the node saw over time: supply, losses, speed, peers.", &[], Context::samples),
        at_once("ailo_supply", "Where all coins are.", &[], Context::supply),
        reading(
            "ailo_blocks",
            "Blocks, the newest first; 100 a page at most, fewer where they are long.",
            &[],
            Context::blocks,
        ),
        reading("ailo_block", "A block, by its height or its id.", &[NotFound], Context::block),
        asking(
            "ailo_transaction",
            "A transaction and where it stands, in a block or waiting for one.",
            &[NotFound, NotYet, Unavailable],
            Context::transaction,
        ),
        reading(
            "ailo_transactionEvents",
            "What happened to a transfer: confirmations, reports, its end; `whole` says whether all of it was found.",
            &[NotFound],
            Context::transaction_events,
        ),
        reading(
            "ailo_recent",
            "Transactions in blocks, the newest first, without what nodes say all the time: heartbeats, attestations and lots. 100 a page at most, and fewer, or none, where many blocks have to be read for them: `next` goes on.",
            &[],
            Context::recent,
        ),
        at_once(
            "ailo_pending",
            "Transfers that wait for confirmations, the oldest first; 100 a page at most.",
            &[],
            Context::pending,
        ),
        asking(
            "ailo_waiting",
            "The first hundred transactions that wait for a block in this node's mempool.",
            &[Unavailable],
            Context::waiting,
        ),
        asking("ailo_submit", "Hands in a signed transaction.", &[Malformed, Refused, Unavailable], Context::submit),
        asking(
            "ailo_submitMany",
            "Hands in several signed transactions; each has its own outcome.",
            &[Unavailable],
            Context::submit_many,
        ),
        at_once("ailo_account", "A wallet's account.", &[], Context::account),
        asking(
            "ailo_nextNonce",
            "The number of a wallet's next transaction: behind what it has in the ledger, and waiting in this node's mempool.",
            &[Unavailable],
            Context::next_nonce,
        ),
        at_once("ailo_owner", "The account of the wallet that has a user name.", &[NotFound], Context::owner),
        reading(
            "ailo_history",
            "What happened to a wallet or a node, the newest first; 100 a page at most. With `minStatus` a page may have fewer.",
            &[],
            Context::history,
        ),
        reading(
            "ailo_richList",
            "The richest wallets: up to a thousand, 100 a page at most, as they were about half a minute ago. A page that goes on is of the same ranking.",
            &[NotFound],
            Context::rich_list,
        ),
        reading("ailo_node", "A node as the ledger knows it.", &[NotFound], Context::node),
        reading("ailo_nodes", "Registered nodes in the order of their keys; 100 a page at most.", &[], Context::nodes),
        reading(
            "ailo_earnings",
            "What a node was paid, by what for, by the hour and by the day: the node that is asked counts it, of others their history tells.",
            &[],
            Context::earnings,
        ),
        reading("ailo_validators", "Who decides the next block, and who is in jail.", &[], Context::validators),
        at_once("ailo_proposals", "What is voted on, and what votes have changed.", &[], Context::proposals),
        at_once("ailo_market", "What inference costs now.", &[], Context::market),
        at_once(
            "ailo_rounds",
            "The open round, and the closed ones that the ledger keeps, the newest first.",
            &[],
            Context::rounds,
        ),
        at_once("ailo_round", "A round with every contribution, verdict, replay and pay.", &[NotFound], Context::round),
        asking(
            "ailo_search",
            "What a text names: a block, a transaction in one or waiting for one, a wallet, node or round.",
            &[Unavailable],
            Context::search,
        ),
        reading("ailo_lightBlock", "A header with its certificate and validators.", &[NotFound], Context::light_block)
            .light(),
        reading(
            "ailo_headers",
            "A block's header and those of the blocks before it; fewer than asked for where the blocks are long: ask on from there.",
            &[],
            Context::headers,
        )
        .light(),
        at_once(
            "ailo_proof",
            "What stands at a key of the state, and the proof of it against the reply's state root.",
            &[Unavailable],
            Context::proof,
        )
        .light(),
        reading(
            "ailo_transactionProof",
            "A transaction, and the proof that it stands in a block.",
            &[NotFound],
            Context::transaction_proof,
        )
        .light(),
        operating("ailo_operator", "What the operator has set.", |_, NoParams {}| Ok(())),
        operating(
            "ailo_setTraining",
            "Lets the node train or rest, until it stops.",
            |operator, set: SetTrainingParams| {
                operator.set_training(set.on);
                Ok(())
            },
        ),
        operating(
            "ailo_setPower",
            "Sets the share of the time that training may compute, 20 to 90 percent, until the node stops.",
            |operator, set: SetPowerParams| operator.set_power(set.percent).map_err(|e| invalid(e.to_string())),
        ),
        telling::<_, Header, _>(
            ["ailo_subscribeBlocks", "ailo_newBlock", "ailo_unsubscribeBlocks"],
            "Each new block's header, once and in order.",
            &[],
            subscriptions::blocks,
        ),
        telling::<_, At<EntryView>, _>(
            ["ailo_subscribeHistory", "ailo_newEntry", "ailo_unsubscribeHistory"],
            "Whatever happens to a wallet or a node, once and in order, from a cursor on. It ends where what comes next is no longer kept.",
            &[NotFound],
            subscriptions::history,
        ),
        telling::<_, At<RoundChange>, _>(
            ["ailo_subscribeRounds", "ailo_roundChanged", "ailo_unsubscribeRounds"],
            "Where the open round stands, now and whenever it moves; who reads slowly sees the newest.",
            &[],
            subscriptions::rounds,
        ),
        telling::<_, At<PeersView>, _>(
            ["ailo_subscribePeers", "ailo_peersChanged", "ailo_unsubscribePeers"],
            "The peers, now and whenever one comes or goes; who reads slowly sees the newest.",
            &[],
            subscriptions::peers,
        ),
    ]
}

/// What the server serves.
pub(super) fn module(context: Arc<Context>) -> Result<Module, RegisterMethodError> {
    let mut module = RpcModule::from_arc(context);
    all().iter().try_for_each(|method| (method.register)(&mut module))?;
    let document = openrpc::document();
    module.register_method("rpc.discover", move |_, _, extensions| Reply(Ok(document.clone()), begin(extensions)))?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_may_be_left_out_and_what_no_method_knows_is_refused() {
        assert!(parse::<NoParams>(&Params::new(None)).is_ok() && parse::<PageParams>(&Params::new(None)).is_ok());
        assert!(parse::<NoParams>(&Params::new(Some("[]"))).is_ok());
        let unknown = parse::<PageParams>(&Params::new(Some(r#"{"limits": 3}"#))).unwrap_err();
        assert!(unknown.why.contains("limits"), "{unknown:?}");
    }
}
