//! What is asked of blocks and transactions.

use super::{
    Answer, Context, MAX_READ_BYTES,
    errors::{Code, Failure, invalid, refused},
    params::*,
    types::*,
};
use crate::service::chain::{Head, SubmitError};
use ailo_ledger::{
    Body, Transaction,
    mempool::AdmissionError,
    state::{State, TransferStatus},
    store::MAX_PAGE,
};
use ailo_protocol::{Address, Amount, Hash, NodeId, PublicKey, Username};
use std::sync::Arc;

/// Blocks after that of a transfer in which its attestations are looked for once it has ended, at most.
const ATTESTED_WITHIN: u64 = 200;

/// Why a name leads nowhere.
pub fn no_block() -> Failure {
    Code::NotFound.says("there is no such block here: it is not made yet, or older than what this node keeps")
}

impl Context {
    /// `ailo_block`
    pub fn block(&self, params: BlockParams) -> Answer<BlockView> {
        let height = match params.name().map_err(invalid)? {
            BlockName::Height(height) => height,
            BlockName::Id(hash) => self.chain.height_of(&hash)?.ok_or_else(no_block)?,
        };
        let (block, certificate) = self.chain.block(height)?.ok_or_else(no_block)?;
        let hash = block.id();
        let transactions = block.transactions.into_iter().map(TransactionInBlock::from).collect();
        Ok(self.at(&self.chain.head(), BlockView { hash, header: block.header, transactions, certificate }))
    }

    /// `ailo_blocks`
    pub fn blocks(&self, params: PageParams) -> Answer<BlocksView> {
        let head = self.chain.head();
        let end = head.state.height().saturating_add(1);
        let below = params.from().map_err(invalid)?.map_or(end, |below| below.min(end));
        let first = self.chain.first();
        let lowest = first.max(below.saturating_sub(params.limit(MAX_PAGE) as u64));
        let (mut blocks, mut read) = (Vec::new(), 0);
        for height in (lowest..below).rev() {
            let Some((header, transactions, bytes)) = self.chain.summary(height)? else { break };
            blocks.push(BlockSummary { hash: header.id(), header, transactions });
            read += bytes;
            if read >= MAX_READ_BYTES {
                break;
            }
        }
        let next = blocks.last().map(|last| last.header.height).filter(|last| *last > first);
        Ok(self.at(&head, BlocksView { blocks, next: next.map(|next| next.to_string()) }))
    }

    /// `ailo_transaction`
    pub async fn transaction(self: Arc<Self>, params: TransactionParams) -> Answer<TransactionView> {
        let TransactionParams { id, min_status } = params;
        let included = move |context: &Context| context.included(&id);
        // Asked again after the mempool: meanwhile it may have gone from there into a block.
        let mut found = self.read(included).await??;
        if found.is_none() {
            if let Some(transaction) = self.chain.waiting(&id).await? {
                let view = TransactionView {
                    id,
                    status: "waiting".into(),
                    block_height: None,
                    attested_by: vec![],
                    reported_by: vec![],
                    needed: None,
                    seats: None,
                    report_percent: None,
                    transaction,
                };
                return self.so_far(min_status, self.at(&self.chain.head(), view));
            }
            found = self.read(included).await??;
        }
        let unknown = || Code::NotFound.says("this node knows no such transaction");
        self.so_far(min_status, found.ok_or_else(unknown)?)
    }

    /// A transaction that is in a block, and where it stands.
    fn included(&self, id: &Hash) -> Result<Option<At<TransactionView>>, Failure> {
        let Some((transaction, height)) = self.chain.transaction(id)? else { return Ok(None) };
        let head = self.chain.head_at(height)?;
        Ok(Some(self.at(&head, self.standing(&head, transaction, height)?)))
    }

    /// The answer, if the transaction has come as far as was asked for.
    fn so_far(&self, least: Option<MinStatus>, answer: At<TransactionView>) -> Answer<TransactionView> {
        let status = answer.value.status.as_str();
        let reached = match status {
            "waiting" => None,
            "pending" => Some(MinStatus::Pending),
            "confirmed" => Some(MinStatus::Confirmed),
            _ => Some(MinStatus::Final),
        };
        match least {
            Some(_) if reached < least => {
                Err(Code::NotYet.says(format!("the transaction is {status} so far: ask again, or without minStatus")))
            }
            _ => Ok(answer),
        }
    }

    /// Where a transaction stands that is in the block at `height`.
    fn standing(&self, head: &Head, transaction: Transaction, height: u64) -> Result<TransactionView, Failure> {
        let (id, state) = (transaction.id(), &head.state);
        let transfer = state.transfer(&id);
        let is_transfer = matches!(transaction.unsigned.body, Body::Transfer { .. });
        let (status, ended) = match transfer.map(|transfer| transfer.status) {
            Some(TransferStatus::Pending) => ("pending", None),
            Some(TransferStatus::Confirmed) => ("confirmed", None),
            None if is_transfer => self.transfer_end(&id)?,
            None => ("included", None),
        };
        let attested_by = match transfer {
            Some(_) => state.confirmers(&id),
            None => self.attested(state, &transaction, height, ended)?,
        };
        // Those who held a seat when it came in may report it.
        let included = transfer.and_then(|transfer| state.inclusion(transfer.height));
        let seats = state.seats(included.map_or(state.epoch(), |block| block.epoch));
        let ledger = &state.params().ledger;
        Ok(TransactionView {
            id,
            status: status.into(),
            block_height: Some(height),
            attested_by,
            reported_by: state.reports(&id).map(|(node, _)| node).collect(),
            needed: is_transfer.then_some(ledger.confirmations),
            seats: is_transfer.then(|| seats.map_or(0, |seats| super::count(seats.0.len()))),
            report_percent: is_transfer.then_some(ledger.report_percent),
            transaction,
        })
    }

    /// The nodes whose attestations counted for a transfer that has ended, in order: its state is gone, the blocks are there. Whom a node works
    /// for is known as of now alone.
    fn attested(
        &self,
        state: &State,
        transaction: &Transaction,
        height: u64,
        ended: Option<u64>,
    ) -> Result<Vec<NodeId>, Failure> {
        let Body::Transfer { to, .. } = &transaction.unsigned.body else { return Ok(Vec::new()) };
        let (id, from) = (transaction.id(), state.account_of(&transaction.unsigned.signer));
        let needed = state.params().ledger.confirmations as usize;
        let is_party = |node: &NodeId| state.node(node).is_some_and(|node| [from, *to].contains(&node.wallet));
        let names_it =
            |body: &Body| matches!(body, Body::Attest { height: of, except } if *of == height && !except.contains(&id));
        let last = ended.unwrap_or(u64::MAX).min(height.saturating_add(ATTESTED_WITHIN));
        let (mut nodes, mut read) = (Vec::new(), 0);
        for height in height + 1..=last {
            if nodes.len() >= needed || read >= MAX_READ_BYTES {
                break;
            }
            let Some((transactions, bytes)) = self.chain.transactions(height)? else { break };
            let signed = transactions.iter().map(|each| &each.unsigned).filter(|each| names_it(&each.body));
            nodes.extend(signed.map(|each| each.signer).filter(|node| !is_party(node)));
            read += bytes;
        }
        nodes.truncate(needed);
        Ok(nodes)
    }

    /// `ailo_pending`
    pub fn pending(&self, params: PageParams) -> Answer<PendingView> {
        let after = params.after_transfer().map_err(invalid)?;
        let limit = params.limit(MAX_PAGE);
        let head = self.chain.head();
        let state = &head.state;
        let heights = state.pending_blocks().filter(|height| after.is_none_or(|(from, _)| *height >= from));
        let ids = heights.flat_map(|height| {
            let transfers = state.inclusion(height).map_or(&[][..], |block| block.transfers.as_slice());
            transfers.iter().map(move |id| (height, *id))
        });
        let transfers = ids.filter(|place| after.is_none_or(|after| *place > after)).filter_map(|(height, id)| {
            let transfer = state.transfer(&id).filter(|transfer| transfer.status == TransferStatus::Pending)?;
            Some(PendingTransfer {
                id,
                block_height: height,
                from: transfer.from,
                to: transfer.to,
                amount: transfer.amount,
                confirmations: super::count(state.confirmers(&id).len()),
            })
        });
        let mut transfers: Vec<PendingTransfer> = transfers.take(limit + 1).collect();
        let more = transfers.len() > limit;
        transfers.truncate(limit);
        let next = transfers.last().filter(|_| more).map(|last| format!("{}-{}", last.block_height, last.id));
        Ok(self.at(&head, PendingView { needed: state.params().ledger.confirmations, transfers, next }))
    }

    /// `ailo_waiting`
    pub async fn waiting(self: Arc<Self>, _: NoParams) -> Answer<WaitingView> {
        let (count, first) = self.chain.all_waiting(MAX_PAGE).await?;
        let transactions = first.into_iter().map(TransactionInBlock::from).collect();
        Ok(self.at(&self.chain.head(), WaitingView { count: super::count(count), transactions }))
    }

    /// `ailo_submit`
    pub async fn submit(self: Arc<Self>, params: SubmitParams) -> Answer<Submitted> {
        let transaction = params.transaction().map_err(|why| Code::Malformed.says(why))?;
        let id = self.hand_in(transaction).await?;
        Ok(self.at(&self.chain.head(), Submitted { id }))
    }

    /// Hands in what somebody else signed.
    pub async fn hand_in(self: &Arc<Self>, transaction: Transaction) -> Result<Hash, Failure> {
        let outcome = self.offer(vec![transaction]).await?.pop();
        outcome.ok_or(SubmitError::Stopped)?.map_err(|reason| refused(&reason))
    }

    /// Has signatures checked when their turn comes, and then asks the ledger's thread.
    async fn offer(
        self: &Arc<Self>,
        transactions: Vec<Transaction>,
    ) -> Result<Vec<Result<Hash, AdmissionError>>, Failure> {
        let checked = self.read(move |context| context.chain.verify(transactions)).await?;
        Ok(self.chain.offer(checked).await?)
    }

    /// `ailo_submitMany`
    pub async fn submit_many(self: Arc<Self>, params: SubmitManyParams) -> Answer<SubmittedMany> {
        let decoded = params.transactions().map_err(invalid)?;
        let good = decoded.iter().flatten().cloned().collect();
        let mut outcomes = self.offer(good).await?.into_iter();
        let outcome = |decoded: Option<Transaction>| match decoded.and_then(|_| outcomes.next()) {
            Some(Ok(id)) => SubmitOutcome { id: Some(id), code: None, message: None },
            Some(Err(e)) => SubmitOutcome { id: None, code: Some(e.code().into()), message: Some(e.to_string()) },
            None => SubmitOutcome { id: None, code: Some(Code::Malformed.name().into()), message: None },
        };
        let outcomes = decoded.into_iter().map(outcome).collect();
        Ok(self.at(&self.chain.head(), SubmittedMany { outcomes }))
    }

    /// `ailo_market`
    pub fn market(&self, _: NoParams) -> Answer<MarketView> {
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

    /// `ailo_supply`
    pub fn supply(&self, _: NoParams) -> Answer<SupplyView> {
        let head = self.chain.head();
        Ok(self.at(&head, self.supply_view(&head.state)))
    }

    /// `ailo_search`: several meanings of a text are tried in the order of its shapes, and at last what waits for a block.
    pub async fn search(self: Arc<Self>, params: SearchParams) -> Answer<SearchView> {
        let text: String = params.query.trim().chars().take(MAX_QUERY).collect();
        let text = text.to_lowercase();
        let id = text.parse::<Hash>().ok();
        let named = move |context: &Context| {
            let head = context.chain.head();
            let found = context.named(&head, &text)?;
            Ok::<_, Failure>(context.at(&head, SearchView { found }))
        };
        let mut answer = self.read(named.clone()).await??;
        if let (Some(id), None) = (id, &answer.value.found) {
            if self.chain.waiting(&id).await?.is_some() {
                answer.value.found = Some(Found::Transaction { id });
            } else {
                // Meanwhile it may have gone from the mempool into a block.
                answer = self.read(named).await??;
            }
        }
        Ok(answer)
    }

    fn named(&self, head: &Head, text: &str) -> Result<Option<Found>, Failure> {
        let (state, wallet) = (&head.state, |address| Found::Wallet { address });
        if let Some(name) = text.strip_prefix('@').and_then(|name| name.parse::<Username>().ok()) {
            return Ok(state.owner(&name).map(wallet));
        }
        let number = text.strip_prefix("round").map(|rest| rest.trim_start_matches([' ', '#']));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            return Ok(Some(Found::Round { number }));
        }
        if let Ok(address) = text.parse::<Address>() {
            return Ok(Some(wallet(address)));
        }
        let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '\u{202f}' | ',' | '#')).collect();
        if let Ok(height) = digits.parse::<u64>() {
            return Ok(self.chain.header(height)?.map(|_| Found::Block { height }));
        }
        if let Ok(id) = text.parse::<Hash>() {
            if self.chain.transaction(&id)?.is_some() {
                return Ok(Some(Found::Transaction { id }));
            }
            if let Some(height) = self.chain.height_of(&id)? {
                return Ok(Some(Found::Block { height }));
            }
        }
        if let Ok(node) = text.parse::<PublicKey>()
            && state.node(&node).is_some()
        {
            return Ok(Some(Found::Node { node }));
        }
        Ok(text.parse::<Username>().ok().and_then(|name| state.owner(&name)).map(wallet))
    }
}
