//! `localnet --story`: what people do with coins, once each: names, stakes, a deposit, transfers, one that is taken back, a fraud that more than half of the
//! seats reverse, a vote, a node that signs twice and loses stake, a prompt. For who makes an explorer, or wants to see one with something in it.

use super::net::Net;
use crate::{
    client::Client,
    commands::{Included, sign},
    error::NodeError,
    genesis::now_ms,
    inference::chat,
    logs::printable,
    output::say,
    rpc::types::*,
};
use ailo_ledger::{
    Body, Transaction,
    consensus::{Ballot, Step},
    state::Event,
    store::Subject,
    transaction::Evidence,
};
use ailo_protocol::{
    Address, Amount, Hash, Keypair, NodeId,
    keystore::{self, Kind},
    params::Params,
};
use serde_json::json;
use std::time::{Duration, Instant};

/// What a wallet needs for its part, at least.
const ENOUGH: Amount = Amount::alc(3);
/// How long people wait for one thing.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long they wait for an answer of the model, and for who claims its price.
const ANSWERED: Duration = Duration::from_secs(60);
/// Tokens of an answer: the model of a development network reads and writes 64 in all.
const TOKENS: u32 = 16;

/// Pays wallets what the story takes, and lets it take little.
pub fn afford(params: &mut Params, nodes: u32) {
    params.round.pot = params.round.pot.max(Amount::alc(10 * u64::from(nodes)));
    params.ledger.poll_deposit = Amount::alc(1);
    params.ledger.poll_ms = params.ledger.poll_ms.min(10_000);
}

/// Lets the first node ask others for texts alone, and pay them.
pub fn cast(net: &mut Net) {
    for (i, node) in net.nodes.iter_mut().enumerate() {
        let part: &[(&str, &str)] = match i {
            0 => &[("AILO_LAYERS", "0..0"), ("AILO_SPEND", "1")],
            _ => &[("AILO_PRICE", "market")],
        };
        node.env.extend(part.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    }
}

fn happened(what: &str) -> Result<(), NodeError> {
    say(&json!({ "story": what }), format_args!("story: {what}"))
}

/// Somebody with a node.
struct Person {
    client: Client,
    wallet: Keypair,
    node: NodeId,
}

impl Person {
    fn address(&self) -> Address {
        Address::from(self.wallet.public())
    }

    /// Signs, submits, waits until it is in a block, and says what was done.
    async fn does(&self, body: Body, what: &str) -> Result<Hash, NodeError> {
        let id = self.client.submit(&sign(&self.client, &self.wallet, body).await?).await?;
        Included::wait(self.client.clone(), &id).await?;
        happened(what)?;
        Ok(id)
    }

    /// How a transfer stands.
    async fn sees_now(&self, id: &Hash) -> Result<String, NodeError> {
        Ok(self.client.transaction(id).await?.value.status)
    }

    /// Waits until a transfer stands so.
    async fn sees(&self, id: &Hash, status: &str) -> Result<(), NodeError> {
        let started = Instant::now();
        loop {
            let seen = self.sees_now(id).await?;
            if seen == status {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(NodeError::Check(format!("the transfer {id} is {seen} and does not become {status}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Lets all of it happen; each step is a check.
pub async fn tell(net: &mut Net) -> Result<(), NodeError> {
    let rich =
        |all: &[Option<At<Status>>]| all.iter().all(|s| s.as_ref().is_some_and(|s| s.value.account.free >= ENOUGH));
    net.wait_until("every wallet has earned what the story needs", PATIENCE, rich).await?;
    let people = people(net)?;
    let [ann, bella, carl, dora, .., last] = &people[..] else {
        return Err(NodeError::Usage("--story is told by five nodes or more".into()));
    };
    let transfer = |to: Address, amount: Amount, memo: &str| Body::Transfer { to, amount, memo: memo.into() };
    let half = Amount(Amount::alc(1).0 / 2);

    for (person, name) in [(ann, "ann"), (bella, "bella")] {
        let name = name.parse().map_err(|e| NodeError::Check(format!("{e}")))?;
        person.does(Body::RegisterUsername { name: Some(name) }, "somebody takes a user name").await?;
    }
    for person in [ann, last] {
        person.does(Body::Stake { node: person.node, amount: Amount::alc(1) }, "a node's wallet stakes 1 ALC").await?;
    }
    ann.does(Body::Deposit { amount: half }, "ann deposits for inference").await?;
    let coffee = bella.does(transfer(carl.address(), half, "for the coffee"), "bella pays carl").await?;
    bella.sees(&coffee, "confirmed").await?;

    if net.genesis.params.ledger.confirmations > 0 {
        takes_back(carl, dora.address()).await?;
    }
    let thief = keystore::key_from_phrase(&keystore::new_phrase())?;
    let fraud =
        dora.does(transfer(Address::from(thief.public()), Amount::alc(1), "invoice 7"), "dora is deceived").await?;
    dora.sees(&fraud, "confirmed").await?;
    for person in people.iter().filter(|person| person.node != dora.node) {
        let body = Body::Report { transfer: fraud, node: person.node };
        // Whoever held no seat when it came in, or comes after the reversal, is refused.
        if person.does(body, "a seat reports the fraud").await.is_ok() && dora.sees_now(&fraud).await? == "reversed" {
            break;
        }
    }
    dora.sees(&fraud, "reversed").await?;
    happened("the fraud is reversed")?;

    let fee = Amount(net.genesis.params.ledger.fee.0.saturating_mul(2));
    let changes = vec![format!("ledger.fee={fee}")];
    ann.does(Body::Propose { changes, why: "blocks are full".into() }, "ann proposes a higher fee").await?;
    let open: At<ProposalsView> = ann.client.call("ailo_proposals", &[]).await?;
    let proposal = open.value.proposals.last().map(|open| open.number);
    let proposal = proposal.ok_or_else(|| NodeError::Check("the proposal is not open".into()))?;
    ann.does(Body::Vote { proposal, approve: false }, "and votes against it after all").await?;

    signs_twice(net, ann, last).await?;
    asks(ann).await
}

/// Asks the model, and waits until somebody claims the price. What becomes of that is said, and fails nothing: it is no check of inference.
async fn asks(person: &Person) -> Result<(), NodeError> {
    let asked = tokio::time::timeout(ANSWERED, chat::ask(person.client.url(), "Who are you?", TOKENS));
    let text = match asked.await {
        Ok(Ok(text)) => text,
        Ok(Err(e)) => return happened(&format!("a prompt is not answered: {e}")),
        Err(_) => return happened(&format!("a prompt is not answered within {} s", ANSWERED.as_secs())),
    };
    happened(&format!("ann asks the model, which answers: {}", printable(&text)))?;
    let (started, of) = (Instant::now(), Subject::Wallet(person.address()));
    while started.elapsed() < ANSWERED {
        let history = person.client.history(&of, 100).await?.value.entries;
        let paid = history.iter().find_map(|entry| match &entry.event {
            Event::ReceiptPaid { amount, .. } => Some(*amount),
            _ => None,
        });
        if let Some(amount) = paid {
            return happened(&format!("and pays {amount} ALC for it, out of her deposit"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    happened(&format!("nobody has claimed its price within {} s", ANSWERED.as_secs()))
}

fn people(net: &mut Net) -> Result<Vec<Person>, NodeError> {
    let mut people = Vec::new();
    for i in 0..net.nodes.len() {
        let client = net.client(i).ok_or_else(|| NodeError::Check(format!("node {i} does not answer")))?;
        let wallet = net.nodes[i].wallet.clone();
        let address = Address::from(wallet.public());
        let founder = net.genesis.founders.iter().find(|founder| founder.wallet == address);
        let node = founder.ok_or_else(|| NodeError::Check(format!("node {i} is no founder")))?.node;
        people.push(Person { client, wallet, node });
    }
    Ok(people)
}

/// Sends and takes back in one breath, before enough nodes have confirmed it.
async fn takes_back(person: &Person, to: Address) -> Result<(), NodeError> {
    let body = Body::Transfer { to, amount: Amount(1_000_000), memo: "to the wrong one".into() };
    let sent = sign(&person.client, &person.wallet, body).await?;
    let network = person.client.status().await?.value.network;
    let body = Body::Dispute { transfer: sent.id() };
    let dispute = Transaction::sign(&network, &person.wallet, sent.unsigned.nonce + 1, now_ms(), body);
    person.client.submit(&sent).await?;
    person.client.submit(&dispute).await?;
    person.sees(&sent.id(), "refunded").await?;
    happened("a transfer to the wrong wallet is taken back")?;
    Ok(())
}

/// The last node's key signs two ballots that exclude each other, as if it ran on two machines, and somebody shows them.
async fn signs_twice(net: &Net, witness: &Person, twice: &Person) -> Result<(), NodeError> {
    let key = |i: usize| keystore::load(&net.nodes[i].dir.join("node.json"), Kind::Node);
    let (own, key) = (key(0)?, key(net.nodes.len() - 1)?);
    let status = witness.client.status().await?;
    let ballot = |block: u8| {
        let ballot = Ballot { height: status.height, round: 0, step: Step::Prevote, block: Some(Hash([block; 32])) };
        ballot.sign(&status.value.network, &key)
    };
    let evidence = Evidence::Ballots { first: ballot(1), second: ballot(2) };
    // Evidence is a node's word, which has no nonce and costs nothing.
    let shown = Transaction::sign(&status.value.network, &own, 0, now_ms(), Body::Evidence(evidence));
    let id = witness.client.submit(&shown).await?;
    Included::wait(witness.client.clone(), &id).await?;
    happened("a node signed twice: it loses stake and goes to jail")?;
    let validators = witness.client.history(&Subject::Node(twice.node), 10).await?;
    match validators.value.entries.iter().any(|entry| matches!(entry.event, Event::Slashed { .. })) {
        true => Ok(()),
        false => Err(NodeError::Check("the node that signed twice was not slashed".into())),
    }
}
