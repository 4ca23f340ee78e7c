//! One target for every decoder of what comes from outside: the wire, the disk, JSON-RPC, files, a light client's node.
//!
//! Each target holds that no input panics, that what is allocated is bounded by the input's length, and that whatever
//! decodes re-encodes to the same bytes (or, for text and protobuf, which have many forms of one value, to a form that
//! decodes to the same value). Where it is cheap, what was decoded goes on to whom it is for.
//!
//! Two crates hold this file: the one that libFuzzer drives, and the ordinary test `fuzz`. Both give it `codec`, `params`
//! and `types`.

use super::{codec, params::*};
use ailo_ledger::{
    Block, Body, Certificate, Header, Transaction,
    block::{MAX_CERTIFICATE_BYTES, prove_transaction, transaction_leaf},
    consensus::{
        Ballot, Host, Input, Message, Persist, SignError, Step,
        codec::{RoundProof, WalEntry},
        verify_certificate,
    },
    framelog::{Format, FrameLog, LogError},
    light::{Checkpoint, LightBlock, LightClient},
    state::{
        Entry, Key, State, build_block, entry::MAX_ENTRY_BYTES, entry::MAX_KEY_BYTES, execute_block, snapshot::Part,
        tree,
    },
    store::{ConsensusFiles, SnapshotHead},
    transaction::{Claim, Consent, Evidence, SignedAttest},
};
use ailo_proto::{
    BlockWithCertificate, BlocksRequest, BlocksResponse, Close, Consensus, Frame, Gossip, Have, Head, HeadRequest,
    Message as _, Open, Request, Response, Route, Rows, Sampling, Tokens, Transactions, Where, gossip, response,
};
use ailo_protocol::{
    Address, Amount, Genesis, Hash, Keypair, PublicKey,
    canonical::{self, Decode, Encode},
    compression::Codec,
    contribution::{Contribution, Finding, Payload},
    genesis::{Dataset, Founder},
    inference::{
        SessionId,
        announce::Announce,
        chunks,
        proof::{self, Charge, Statement},
        session_id,
        stage::{Done, Draft, Served, Stage},
    },
    keystore, merkle, net,
    payment::Receipt,
    presets,
};
use serde::de::DeserializeOwned;
use std::{
    fmt::{Debug, Display},
    fs,
    path::Path,
    str::FromStr,
    sync::{Arc, LazyLock},
};

/// Something that takes bytes from outside.
pub struct Target {
    /// Name, also of its corpus.
    pub name: &'static str,
    /// Takes any input, and panics where it should not be taken so.
    pub run: fn(&[u8]),
    /// Examples that decode.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const ALL: &[Target] = &[
    Target { name: "gossip", run: gossip, seeds: gossip_seeds },
    Target { name: "request", run: request, seeds: request_seeds },
    Target { name: "response", run: response, seeds: response_seeds },
    Target { name: "message", run: message, seeds: message_seeds },
    Target { name: "transaction", run: transaction, seeds: transaction_seeds },
    Target { name: "block", run: block, seeds: block_seeds },
    Target { name: "certificate", run: certificate, seeds: certificate_seeds },
    Target { name: "wal", run: wal, seeds: wal_seeds },
    Target { name: "framelog", run: framelog, seeds: framelog_seeds },
    Target { name: "recovery", run: recovery, seeds: recovery_seeds },
    Target { name: "entries", run: entries, seeds: entries_seeds },
    Target { name: "rpc", run: rpc, seeds: rpc_seeds },
    Target { name: "genesis", run: genesis_text, seeds: genesis_seeds },
    Target { name: "keystore", run: keystore_text, seeds: keystore_seeds },
    Target { name: "light", run: light, seeds: light_seeds },
    Target { name: "proof", run: proof, seeds: proof_seeds },
    Target { name: "snapshot", run: snapshot, seeds: snapshot_seeds },
    Target { name: "payload", run: payload, seeds: payload_seeds },
    Target { name: "text", run: text, seeds: text_seeds },
    Target { name: "stage", run: stage_frames, seeds: stage_seeds },
];

/// An input may allocate this much whatever its length (a ledger or a log is set up for some), and this much a byte.
const FREE_BYTES: usize = 16 << 20;
const BYTES_PER_BYTE: usize = 512;

/// Runs a target; `allocated` counts all bytes that this process ever allocated.
pub fn check(target: &Target, data: &[u8], allocated: impl Fn() -> usize) {
    LazyLock::force(&WORLD);
    let before = allocated();
    (target.run)(data);
    let (used, bound) = (allocated() - before, FREE_BYTES + BYTES_PER_BYTE * data.len());
    assert!(used <= bound, "{} bytes made {} allocate {used}, more than {bound}", data.len(), target.name);
}

/// A ledger of three blocks, by four founders.
struct World {
    genesis: Genesis,
    /// After each block, the genesis first.
    states: Vec<State>,
    blocks: Vec<Block>,
    lights: Vec<LightBlock>,
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

fn node_key(i: u8) -> Keypair {
    Keypair::from_seed([i + 1; 32])
}

fn wallet(i: u8) -> Address {
    Address::from(Keypair::from_seed([i + 101; 32]).public())
}

impl World {
    fn new() -> World {
        let founder = |i| Founder { node: *node_key(i).public(), wallet: wallet(i), validator: true };
        let genesis = Genesis {
            name: "fuzz".into(),
            time_ms: 1_000_000_000,
            seed: 7,
            founders: (0..4).map(founder).collect(),
            dataset: Dataset { name: "none".into(), root: Hash::ZERO, tokens: 1000, held_out: 100 },
            model_root: Hash([9; 32]),
            params: presets::dev(),
        };
        genesis.validate().expect("it founds a network");
        let (network, mut state) = (genesis.id(), State::genesis(&genesis));
        let mut world = World { genesis, states: vec![state.clone()], blocks: Vec::new(), lights: Vec::new() };
        for height in 1..=3u64 {
            let time_ms = state.time_ms() + 3000;
            let beat = |i| {
                Transaction::sign(
                    &network,
                    &node_key(i),
                    0,
                    time_ms,
                    Body::Heartbeat { trains: true, class: Hash::ZERO },
                )
            };
            let candidates = (0..4).map(beat).take(if height == 2 { 4 } else { 1 });
            let proposer = state.validators().0[0].node;
            let (block, executed) = build_block(&state, proposer, time_ms, None, candidates).expect("a block");
            let (validators, next_validators) = (state.validators().clone(), executed.state.validators().clone());
            let certificate = certify(&network, &block.header);
            let header = block.header.clone();
            world.lights.push(LightBlock { header, certificate, validators, next_validators });
            world.blocks.push(block);
            state = executed.state;
            world.states.push(state.clone());
        }
        world
    }

    fn network(&self) -> Hash {
        self.states[0].network()
    }
}

fn certify(network: &Hash, header: &Header) -> Certificate {
    let ballot = Ballot { height: header.height, round: 0, step: Step::Precommit, block: Some(header.id()) };
    let sign = |i| (*node_key(i).public(), ballot.sign(network, &node_key(i)).signature);
    let mut signatures: Vec<_> = (0..4).map(sign).collect();
    signatures.sort();
    Certificate { height: header.height, round: 0, block: header.id(), signatures }
}

/// What the canonical bytes stand for, which has no other bytes.
fn canonical_value<T: Decode<()> + Encode>(bytes: &[u8], max: usize) -> Option<T> {
    let value: T = canonical::decode(bytes, max).ok()?;
    assert_eq!(canonical::encode(&value), bytes, "another encoding of the same value was taken");
    Some(value)
}

// ---- The wire.

/// A message's own encoding decodes to itself.
fn protobuf<T: ailo_proto::Message + Default + PartialEq>(message: &T) {
    let again = T::decode(message.encode_to_vec().as_slice()).expect("what was encoded decodes");
    assert!(again == *message, "a message changes on the way");
}

fn gossip(data: &[u8]) {
    let Ok(gossip) = Gossip::decode(data) else { return };
    protobuf(&gossip);
    match gossip.body {
        Some(gossip::Body::Transactions(body)) => body.canonical.iter().for_each(|bytes| transaction(bytes)),
        Some(gossip::Body::Consensus(body)) => message(&body.canonical),
        Some(gossip::Body::Serving(serving)) => drop(Announce::open(&Hash::ZERO, &serving.canonical)),
        Some(gossip::Body::Head(_)) | None => {}
    }
}

fn gossip_seeds() -> Vec<Vec<u8>> {
    let transactions = transaction_seeds()
        .into_iter()
        .map(|bytes| Gossip::from(Transactions { canonical: vec![bytes.into()] }).encode_to_vec());
    let messages =
        message_seeds().into_iter().map(|bytes| Gossip::from(Consensus { canonical: bytes.into() }).encode_to_vec());
    let head = Gossip::from(Head { height: 7, block: vec![1; 32].into() }).encode_to_vec();
    transactions.chain(messages).chain([head]).collect()
}

// ---- A stage of inference: frames of its client, its neighbours and a stranger, and what they make it compute.

/// Layers that the stage serves of four, by the first byte.
const SPANS: [std::ops::Range<u32>; 4] = [0..4, 0..2, 1..3, 2..4];

/// Guesses that a text goes on as it began.
struct Echo;

impl Draft for Echo {
    fn draft(&mut self, _: &SessionId, text: &[u32], _: usize) -> Vec<u32> {
        text.iter().take(3).copied().collect()
    }

    fn end(&mut self, _: &SessionId) {}
}

/// Each frame comes after a byte for who sends it and two for its length.
fn stage_frames(data: &[u8]) {
    let Some((kind, mut rest)) = data.split_first() else { return };
    let served = Served {
        model: Hash([1; 32]),
        layers: SPANS[usize::from(*kind) % 4].clone(),
        total: 4,
        width: 2,
        cache_bytes: 16,
        vocabulary: 100,
        context: 64,
        memory: 1 << 16,
        owner: *node_key(0).public(),
        paid: false,
    };
    let mut stage = Stage::new(served, Box::new(Echo));
    while let Some(([from, low, high], after)) = rest.split_first_chunk() {
        let size = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let from = *node_key(from % 4).public();
        match Frame::decode(&after[..size]) {
            Ok(frame) => drop(stage.handle(from, frame)),
            Err(_) => drop(stage.gone(from)),
        }
        rest = &after[size..];
        let jobs = stage.batch(16, 5);
        for job in jobs {
            let positions = job.input.positions(2);
            let rows = if job.sample == 0 { vec![0.5; 2 * positions] } else { Vec::new() };
            let sampled = vec![(7, None); job.sample.min(1)];
            assert!(
                stage.sampling(&job).is_some_and(|(_, _, drafts)| job.sample == 0 || job.sample == drafts.len() + 1)
            );
            stage.computed(&job, Ok(Done { rows, sampled }));
        }
    }
}

fn stage_seeds() -> Vec<Vec<u8>> {
    let (client, before, me, after) = (node_key(1), node_key(2), node_key(0), node_key(3));
    let id = session_id(client.public(), 9);
    let bytes = |key: &Keypair| -> ailo_proto::Bytes { key.public().0.to_vec().into() };
    let seed = |kind: u8| {
        let span = SPANS[usize::from(kind)].clone();
        let (first, last) = (span.start == 0, span.end == 4);
        let sampling = Sampling { limit: 40, temperature: 1.0, prompt: 2, ..Sampling::default() };
        let open = Open {
            nonce: 9,
            model: vec![1; 32].into(),
            first: span.start,
            end: span.end,
            room: 40,
            sampling: Some(sampling),
            chunks: vec![],
        };
        let route = Route {
            epoch: 1,
            before: if first { vec![].into() } else { bytes(&before) },
            after: if last { vec![].into() } else { bytes(&after) },
            first: bytes(if first { &me } else { &before }),
            last: bytes(if last { &me } else { &after }),
            from: 2,
            tokens: vec![1, 2, 3],
        };
        let rows = Rows { epoch: 1, at: 0, rows: 0.25f32.to_le_bytes().repeat(8).into(), drafts: vec![7] };
        let frames: Vec<(u8, Frame)> = vec![
            (1, Frame::of(id, open)),
            (1, Frame::of(id, route.clone())),
            (3, Frame::of(id, Have { epoch: 1, have: 0 })),
            (1, Frame::of(id, ailo_proto::Input { epoch: 1, at: 0, tokens: vec![1, 2, 3] })),
            (2, Frame::of(id, rows)),
            (3, Frame::of(id, Tokens { epoch: 1, at: 3, tokens: vec![7, 9], ..Tokens::default() })),
            (1, Frame::of(id, Route { epoch: 2, from: 3, tokens: vec![1, 2, 3, 7], ..route })),
            (1, Frame::of(id, Where {})),
            (1, Frame::of(id, Close { chunks: vec![vec![5; 32].into()] })),
        ];
        let mut data = vec![kind];
        for (from, frame) in frames {
            let frame = frame.encode_to_vec();
            data.push(from);
            data.extend((frame.len() as u16).to_le_bytes());
            data.extend(frame);
        }
        data
    };
    (0..4).map(seed).collect()
}

fn request(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        protobuf(&request);
    }
}

fn request_seeds() -> Vec<Vec<u8>> {
    let hash: ailo_proto::Bytes = vec![3; 32].into();
    let blob = ailo_proto::BlobRequest { hash: hash.clone(), offset: 1 << 40, length: 77 };
    let chunk = ailo_proto::ModelChunkRequest { root: hash.clone(), index: 5 };
    vec![
        Request::from(BlocksRequest { from_height: 3, max_count: 128 }).encode_to_vec(),
        Request::from(blob).encode_to_vec(),
        Request::from(ailo_proto::ModelManifestRequest { root: hash }).encode_to_vec(),
        Request::from(chunk).encode_to_vec(),
        Request::from(HeadRequest {}).encode_to_vec(),
        Request::from(ailo_proto::LightBlockRequest { height: 9 }).encode_to_vec(),
        Request::from(ailo_proto::HeadersRequest { from_height: 9, max_count: 8 }).encode_to_vec(),
        Request::from(ailo_proto::SnapshotRequest {}).encode_to_vec(),
        Request::from(ailo_proto::SnapshotPartRequest { height: 9, index: 1 }).encode_to_vec(),
    ]
}

fn response(data: &[u8]) {
    let Ok(response) = net::decode_response(data.to_vec()) else { return };
    protobuf(&response);
    if let Some(response::Body::Blocks(answer)) = response.body {
        for pair in answer.blocks {
            block(&pair.block);
            certificate(&pair.certificate);
        }
    }
}

fn response_seeds() -> Vec<Vec<u8>> {
    let pair = |light: &LightBlock, block: &Block| BlockWithCertificate {
        block: block.encode().into(),
        certificate: canonical::encode(&light.certificate).into(),
    };
    let blocks = WORLD.lights.iter().zip(&WORLD.blocks).map(|(light, block)| pair(light, block)).collect();
    vec![
        Response::from(BlocksResponse { blocks, first_height: 1 }).encode_to_vec(),
        Response::from(ailo_proto::BlobResponse { total: 9, data: vec![7; 9].into() }).encode_to_vec(),
        Response::from(ailo_proto::ModelManifestResponse { chunks: vec![7; 64].into() }).encode_to_vec(),
        Response::from(ailo_proto::ModelChunkResponse { data: vec![7; 9].into() }).encode_to_vec(),
        Response::from(Head { height: 7, block: vec![1; 32].into() }).encode_to_vec(),
        Response::from(ailo_proto::LightBlockResponse { canonical: WORLD.lights[0].encode().into() }).encode_to_vec(),
        Response::from(ailo_proto::HeadersResponse {
            canonical: WORLD.blocks.iter().map(|block| canonical::encode(&block.header).into()).collect(),
        })
        .encode_to_vec(),
        Response::from(ailo_proto::SnapshotResponse { head: snapshot_head().encode().into() }).encode_to_vec(),
        Response::from(ailo_proto::SnapshotPartResponse { part: WORLD.states[3].parts().part(0).encode().into() })
            .encode_to_vec(),
    ]
}

/// Storage that keeps nothing.
struct Nowhere;

impl Persist for Nowhere {
    fn append(&mut self, _: u64, _: Vec<u8>) -> Result<(), LogError> {
        Ok(())
    }
    fn sign(&mut self, _: &Ballot) -> Result<(), SignError> {
        Ok(())
    }
    fn finish(&mut self, _: u64) -> Result<(), LogError> {
        Ok(())
    }
}

fn message(data: &[u8]) {
    let Ok(message) = Message::decode(data) else { return };
    assert_eq!(message.encode(), data, "another encoding of the same message was taken");
    let (state, now_ms) = (WORLD.states[0].clone(), WORLD.blocks[0].header.time_ms);
    let mut host = Host::new(state, node_key(0), Some(Nowhere), None).expect("a host starts");
    host.handle(Input::Start, now_ms).expect("it has started");
    host.handle(Input::Message(message), now_ms).expect("no message stops a host");
}

fn message_seeds() -> Vec<Vec<u8>> {
    let (network, block) = (WORLD.network(), &WORLD.blocks[0]);
    let sign = |i: u8, step, block| Ballot { height: 1, round: 0, step, block }.sign(&network, &node_key(i));
    let fresh = Step::Propose { pol_round: None };
    let votes = |step, i| {
        let signed = sign(i, step, Some(block.id()));
        (step == Step::Precommit, Some(block.id()), signed.node, signed.signature)
    };
    let polka = {
        let mut signatures: Vec<_> = (0..3).map(|i| sign(i, Step::Prevote, Some(block.id()))).collect();
        signatures.sort_by_key(|signed| signed.node);
        let signatures = signatures.iter().map(|signed| (signed.node, signed.signature)).collect();
        Certificate { height: 1, round: 0, block: block.id(), signatures }
    };
    let proof = |ends, step| RoundProof { height: 1, round: 0, ends, votes: (0..3).map(|i| votes(step, i)).collect() };
    let proposals = (0..4).map(|i| Message::Proposal(sign(i, fresh, Some(block.id())), Arc::new(block.clone())));
    let others = [
        Message::Vote(sign(1, Step::Prevote, Some(block.id()))),
        Message::Vote(sign(2, Step::Precommit, None)),
        Message::Polka(polka),
        Message::Round(proof(true, Step::Precommit)),
        Message::Round(proof(false, Step::Prevote)),
    ];
    proposals.chain(others).map(|message| message.encode()).collect()
}

// ---- Objects, from wire, disk and RPC alike.

fn transaction(data: &[u8]) {
    let Ok(transaction) = Transaction::decode(data) else { return };
    assert_eq!(transaction.encode(), data, "another encoding of the same transaction was taken");
    let json = serde_json::to_string(&transaction).expect("a transaction has a JSON form");
    assert_eq!(serde_json::from_str::<Transaction>(&json).expect("which is one"), transaction);
    let state = &WORLD.states[1];
    let _ = transaction.verify(&state.network()); // most do not
    let candidates = [transaction].into_iter();
    let (proposer, time_ms) = (state.validators().0[0].node, state.time_ms() + 1);
    build_block(state, proposer, time_ms, None, candidates).expect("what is refused is left out");
}

fn transaction_seeds() -> Vec<Vec<u8>> {
    let (hash, node) = (Hash([5; 32]), *node_key(2).public());
    let contribution = Contribution {
        round: 0,
        base_root: hash,
        payload: hash,
        payload_bytes: 1000,
        update: hash,
        trace: hash,
        tokens: 102_400,
        steps: 25,
        slot: 0,
        loss_first: 3_000_000,
        loss_last: 2_000_000,
        class: Hash::ZERO,
    };
    let network = WORLD.network();
    let consent = Consent::sign(&network, &node, &wallet(3), &node_key(0));
    let ballot = |block: u8| {
        Ballot { height: 1, round: 0, step: Step::Prevote, block: Some(Hash([block; 32])) }.sign(&network, &node_key(2))
    };
    let receipt = Receipt {
        payer: *node_key(3).public(),
        node,
        session: [1; 16],
        model: hash,
        first: 0,
        end: 2,
        total: 4,
        units: 100,
        price: Amount(10_000),
        expires_age: 60_000,
        latency_ms: 300,
    };
    let claim = Claim { units: 100, receipt: receipt.sign(&network, &node_key(3)) };
    let attest = |except: Vec<Hash>| SignedAttest { time_ms: 1, except, signature: consent.signature };
    let sampling = Sampling { prompt: 1, ..Sampling::default() };
    let statement = Statement {
        session: [1; 16],
        model: hash,
        first: 0,
        end: 2,
        chunk: 0,
        came: chunks(&[7; 32])[0],
        gave: hash,
        next: proof::next(&sampling, &chunks(&[7; 32])[0], 7),
        height: 1,
    };
    let signed = statement.sign(&WORLD.network(), &node_key(1));
    let charge = Charge::new(&signed, &[7; 33], &sampling).expect("a sound charge");
    let bodies = [
        Body::Transfer { to: wallet(1), amount: Amount::alc(1), memo: "thanks".into() },
        Body::Stake { node, amount: Amount::alc(2) },
        Body::Unstake { node, amount: Amount::alc(1) },
        Body::RegisterNode { wallet: wallet(3), stamp: 77, consent },
        Body::BindNode { wallet: wallet(3), consent },
        Body::Dispute { transfer: hash },
        Body::Report { transfer: hash, node },
        Body::WithdrawReport { transfer: hash, node },
        Body::Unjail { node },
        Body::RegisterUsername { name: "ada".parse().ok() },
        Body::SetRecovery { commitment: hash },
        Body::Recover { account: wallet(1), count: 0, key: node, agreed: consent.signature, next: hash },
        Body::Propose { changes: vec!["ledger.fee=0.02".into()], why: "cheap".into() },
        Body::Vote { proposal: 65_536, approve: true },
        Body::Challenge { round: 0, node },
        Body::Replayed { round: 0, node, trace: Some(hash) },
        Body::Judge { round: 0, node, found: hash },
        Body::Accuse(charge),
        Body::JudgeStage { node, charge: hash, found: hash },
        Body::Evidence(Evidence::Ballots { first: ballot(1), second: ballot(2) }),
        Body::Evidence(Evidence::Attestations { node, height: 1, first: attest(vec![]), second: attest(vec![hash]) }),
        Body::Deposit { amount: Amount::alc(3) },
        Body::WithdrawDeposit { amount: Amount::alc(1) },
        Body::InferenceReceipt { claims: vec![claim] },
        Body::Heartbeat { trains: true, class: Hash::ZERO },
        Body::CommitLots { number: 1, tip: hash },
        Body::Attest { height: 1, except: vec![hash] },
        Body::Contribute(contribution),
        Body::Verdict {
            round: 0,
            findings: vec![Finding { node, valid: true, suspect: false, loss: Some(5), own: Some(-7) }],
        },
        Body::ModelVote { round: 0, root: hash, loss: 2_000_000 },
    ];
    let time_ms = WORLD.states[1].time_ms();
    bodies.map(|body| Transaction::sign(&WORLD.network(), &node_key(0), 0, time_ms, body).encode()).to_vec()
}

fn block(data: &[u8]) {
    let Ok(block) = Block::decode(data) else { return };
    assert_eq!(block.encode(), data, "another encoding of the same block was taken");
    for state in &WORLD.states {
        let _ = execute_block(state, &block); // most do not follow
    }
}

fn block_seeds() -> Vec<Vec<u8>> {
    WORLD.blocks.iter().map(Block::encode).collect()
}

fn certificate(data: &[u8]) {
    let Some(certificate) = canonical_value::<Certificate>(data, MAX_CERTIFICATE_BYTES) else { return };
    let _ = verify_certificate(&WORLD.network(), WORLD.states[0].validators(), &certificate); // most prove nothing
}

fn certificate_seeds() -> Vec<Vec<u8>> {
    WORLD.lights.iter().map(|light| canonical::encode(&light.certificate)).collect()
}

// ---- The disk.

fn wal(data: &[u8]) {
    if let Ok(entry) = WalEntry::decode(data) {
        assert_eq!(entry.encode(), data, "another encoding of the same entry was taken");
    }
}

fn wal_entries() -> Vec<WalEntry> {
    let (network, block) = (WORLD.network(), &WORLD.blocks[0]);
    let sign = |i: u8, step| Ballot { height: 1, round: 0, step, block: Some(block.id()) }.sign(&network, &node_key(i));
    let proposal = sign(0, Step::Propose { pol_round: None });
    vec![
        WalEntry::Block(Arc::new(block.clone())),
        WalEntry::Proposal(proposal),
        WalEntry::Value { block: block.id(), round: 0, pol_round: None, proposer: proposal.node, valid: true },
        WalEntry::Vote(sign(1, Step::Prevote)),
        WalEntry::Vote(sign(2, Step::Precommit)),
        WalEntry::Polka(WORLD.lights[0].certificate.clone()),
        WalEntry::Timeout(0, 0),
        WalEntry::Timeout(2, 1),
    ]
}

fn wal_seeds() -> Vec<Vec<u8>> {
    wal_entries().iter().map(WalEntry::encode).collect()
}

/// A folder in memory where the machine has one, since logs are synced to disk.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() }).expect("a folder")
}

const LOG: Format = Format { kind: *b"FUZZ", network: Hash([7; 32]), max_frame: 1000 };

fn frames(log: &FrameLog) -> Vec<Vec<u8>> {
    log.frames(0).map(|frame| frame.expect("an open log is whole").1).collect()
}

/// A file is refused and left alone, or opened; then every frame can be read, and a torn end is cut off once.
fn framelog(data: &[u8]) {
    let dir = scratch();
    let path = dir.path().join("log");
    fs::write(&path, data).expect("written");
    let Ok(mut log) = FrameLog::open(&path, LOG) else {
        assert_eq!(fs::read(&path).expect("there"), data, "a log that is refused is changed");
        return;
    };
    let mut found = frames(&log);
    let kept = fs::read(&path).expect("there");
    assert_eq!(data.get(..kept.len()), Some(kept.as_slice()), "opening only ever cuts off");
    log.append(b"more").expect("appended");
    found.push(b"more".to_vec());
    drop(log);
    assert_eq!(frames(&FrameLog::open(&path, LOG).expect("opens again")), found);
}

fn framelog_seeds() -> Vec<Vec<u8>> {
    let dir = scratch();
    let log = |frames: &[&[u8]]| {
        let path = dir.path().join("log");
        FrameLog::create(&path, LOG, frames).expect("made");
        fs::read(path).expect("there")
    };
    vec![log(&[]), log(&[b"one"]), log(&[b"one", &[2; 300], b"three"]), log(&[&[0; 1000]])]
}

/// A validator starts on a journal and a write-ahead log of these frames, or says why not.
fn recovery(data: &[u8]) {
    let Ok((journal, wal)) = canonical::decode::<(Vec<Vec<u8>>, Vec<Vec<u8>>)>(data, 1 << 20) else { return };
    let (dir, network) = (scratch(), WORLD.network());
    let make = |name: &str, kind: &[u8; 4], frames: &[Vec<u8>]| {
        let format = Format { kind: *kind, network, max_frame: 1 << 20 };
        FrameLog::create(&dir.path().join(name), format, &frames.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    if make("journal", b"JRNL", &journal).is_err() || make("wal", b"WAL ", &wal).is_err() {
        return; // an empty frame
    }
    let Ok((files, recovered)) = ConsensusFiles::open(dir.path(), network, 0, false) else { return };
    let state = WORLD.states[0].clone();
    let Ok(mut host) = Host::new(state, node_key(0), Some(files), recovered) else { return };
    let _ = host.handle(Input::Start, WORLD.blocks[0].header.time_ms); // it may refuse its log
}

fn recovery_seeds() -> Vec<Vec<u8>> {
    let entries: Vec<Vec<u8>> = wal_seeds();
    let ballot = Ballot { height: 1, round: 0, step: Step::Prevote, block: Some(WORLD.blocks[0].id()) };
    // As `store/consensus.rs` writes them: a final height (0) or a ballot (1).
    let journal = vec![canonical::encode(&(0u32, 0u64)), canonical::encode(&(1u32, ballot))];
    let frame = |entries: &[Vec<u8>]| canonical::encode(&(1u64, entries.to_vec()));
    let none: Vec<Vec<u8>> = Vec::new();
    let mut seeds = vec![
        canonical::encode(&(&none, &none)),
        canonical::encode(&(&journal, &none)),
        canonical::encode(&(&journal, vec![frame(&entries)])),
        canonical::encode(&(&none, vec![frame(&entries[..3]), frame(&entries[3..])])),
    ];
    seeds.extend(entries.iter().map(|entry| canonical::encode(&(&none, vec![frame(std::slice::from_ref(entry))]))));
    seeds
}

/// Entries that the index gives back: a state with just these, or a refusal.
fn entries(data: &[u8]) {
    let Ok(stored) = canonical::decode::<Vec<(Vec<u8>, Vec<u8>)>>(data, 1 << 20) else { return };
    for (key, entry) in &stored {
        canonical_value::<Key>(key, MAX_KEY_BYTES);
        canonical_value::<Entry>(entry, MAX_ENTRY_BYTES);
    }
    let Ok(state) = State::restore(&WORLD.genesis, stored.iter().cloned()) else { return };
    let again = State::restore(&WORLD.genesis, state.entries()).expect("its own entries");
    assert_eq!(again.root(), state.root());
    let _ = state.check_supply(); // anything may be written there
}

fn entries_seeds() -> Vec<Vec<u8>> {
    WORLD.states.iter().map(|state| canonical::encode(&state.entries().collect::<Vec<_>>())).collect()
}

// ---- JSON-RPC.

/// The first byte chooses the method, the rest are its parameters.
fn rpc(data: &[u8]) {
    let Some((method, json)) = data.split_first() else { return };
    fn parse<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
        serde_json::from_slice(json).ok()
    }
    match method % 11 {
        0 => drop(parse(json).map(|params: BlockParams| params.name().is_ok())),
        1 => drop(parse::<TransactionParams>(json)),
        2 => drop(parse::<AccountParams>(json)),
        3 => {
            let Some(params) = parse::<HistoryParams>(json) else { return };
            assert!(params.limit() >= 1);
            let _ = params.subject();
            if let Ok(Some(cursor)) = params.before() {
                let json = serde_json::json!({"cursor": cursor_text(cursor)});
                let again: HistoryParams = serde_json::from_value(json).expect("its own form");
                assert_eq!(again.before(), Ok(Some(cursor)));
            }
        }
        4 => {
            let Some(params) = parse::<SubmitParams>(json) else { return };
            if let Ok(transaction) = params.transaction() {
                self::transaction(&transaction.encode());
            }
        }
        5 => drop(parse::<LightBlockParams>(json)),
        6 => drop(parse(json).map(|params: HeadersParams| {
            let heights = params.heights();
            assert!(heights.end() - heights.start() < u64::from(MAX_HEADERS));
        })),
        7 => drop(parse(json).map(|params: PageParams| {
            assert!((1..=100).contains(&params.limit(100)));
            let _ = (params.from(), params.after_node(), params.after_transfer());
        })),
        9 => drop(parse(json).map(|params: FollowParams| (params.subject().is_ok(), params.after().is_ok()))),
        _ => drop(parse(json).map(|params: ProofParams| {
            if let Ok(key) = params.key() {
                WORLD.states[1].prove(&key);
            }
        })),
    }
}

fn rpc_seeds() -> Vec<Vec<u8>> {
    let (hash, address) = (Hash([5; 32]), wallet(0));
    let transaction = hex::encode(&transaction_seeds()[0]);
    let key = hex::encode(canonical::encode(&Key::Iou(address, 3, hash)));
    let texts = [
        (0, serde_json::json!({"height": 7})),
        (0, serde_json::json!({"hash": hash})),
        (1, serde_json::json!({"id": hash})),
        (2, serde_json::json!({"address": address})),
        (3, serde_json::json!({"address": address, "cursor": "7-1", "limit": 10})),
        (4, serde_json::json!({"transaction": transaction})),
        (5, serde_json::json!({"height": 7})),
        (6, serde_json::json!({"from": 7, "limit": 3})),
        (7, serde_json::json!({"cursor": format!("7-{hash}"), "limit": 3})),
        (9, serde_json::json!({"address": address, "cursor": "7-1"})),
        (8, serde_json::json!({"account": address})),
        (8, serde_json::json!({"model": true})),
        (8, serde_json::json!({"key": key})),
    ];
    texts.map(|(method, json)| [&[method][..], json.to_string().as_bytes()].concat()).to_vec()
}

// ---- Files.

/// A network file, and a file of parameters: what is valid founds a ledger that runs.
fn genesis_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(params) = presets::overlay(text) {
        let text = toml::to_string(&params).expect("parameters have a text form");
        assert_eq!(presets::overlay(&text).as_ref(), Ok(&params));
    }
    let Ok(genesis) = toml::from_str::<Genesis>(text) else { return };
    let bytes = canonical::encode(&genesis);
    if genesis.validate().is_err() {
        return;
    }
    assert!(canonical_value::<Genesis>(&bytes, bytes.len()) == Some(genesis.clone()));
    let text = toml::to_string(&genesis).expect("a genesis has a text form");
    assert_eq!(toml::from_str::<Genesis>(&text).expect("which is one").id(), genesis.id());
    let mut state = State::genesis(&genesis);
    for _ in 0..3 {
        let (proposer, time_ms) = (state.validators().0[0].node, state.time_ms().saturating_add(60_000));
        let Ok((_, executed)) = build_block(&state, proposer, time_ms, None, std::iter::empty()) else { return };
        state = executed.state;
    }
}

fn genesis_seeds() -> Vec<Vec<u8>> {
    let network = toml::to_string(&WORLD.genesis).expect("a genesis has a text form");
    [presets::MAIN, presets::TEST, presets::DEV, &network].map(|text| text.as_bytes().to_vec()).to_vec()
}

fn keystore_text(data: &[u8]) {
    for kind in [keystore::Kind::Node, keystore::Kind::Wallet] {
        if let Ok(key) = keystore::parse(data, Path::new("key.json"), kind) {
            let file: serde_json::Value = serde_json::from_slice(data).expect("it was JSON");
            let secret = file["secret"].as_str().map(str::to_lowercase);
            assert_eq!(secret, Some(hex::encode(key.seed())), "a key that the file does not hold");
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = keystore::key_from_phrase(text); // most are none
    }
}

fn keystore_seeds() -> Vec<Vec<u8>> {
    let dir = scratch();
    let file = |name: &str, kind| {
        let path = dir.path().join(name);
        keystore::create(&path, kind, &node_key(0), None).expect("made");
        fs::read(path).expect("there")
    };
    let words = format!("{} art", ["abandon"; 23].join(" "));
    vec![file("node.json", keystore::Kind::Node), file("wallet.json", keystore::Kind::Wallet), words.into_bytes()]
}

// ---- What a light client is told.

fn light(data: &[u8]) {
    let Ok(block) = LightBlock::decode(data) else { return };
    assert_eq!(block.encode(), data, "another encoding of the same block was taken");
    let now_ms = WORLD.blocks[2].header.time_ms;
    let mut client = LightClient::from_genesis(&WORLD.genesis);
    if client.advance(&block, now_ms).is_ok() && client.height() > 0 {
        let known = WORLD.blocks.iter().any(|known| known.id() == block.header.id());
        assert!(known, "a block that the validators never signed is believed");
    }
    let checkpoint = Checkpoint { height: block.header.height, block: block.header.id() };
    let _ = LightClient::from_checkpoint(&WORLD.genesis, checkpoint, &block, now_ms); // most are of no network
}

fn light_seeds() -> Vec<Vec<u8>> {
    WORLD.lights.iter().map(LightBlock::encode).collect()
}

/// A claim about the third block, and its proof: nothing but the truth is believed.
fn proof(data: &[u8]) {
    let Ok((number, claim, proof)) = canonical::decode::<(u8, Option<Vec<u8>>, Vec<u8>)>(data, 1 << 20) else { return };
    canonical_value::<tree::Proof>(&proof, tree::MAX_PROOF_BYTES);
    canonical_value::<merkle::Proof>(&proof, merkle::Proof::MAX_BYTES);
    let (block, state) = (&WORLD.blocks[1], &WORLD.states[2]);
    let mut client = LightClient::from_genesis(&WORLD.genesis);
    client.advance(&WORLD.lights[1], block.header.time_ms).map(drop).expect("the second block");
    let head = client.head().expect("it is verified");
    let keys = keys();
    let key = keys[usize::from(number) % keys.len()];
    if head.entry(&key, claim.as_deref(), &proof).is_ok() {
        let truth = state.prove(&key).0.map(canonical::encode);
        assert_eq!(claim, truth, "a lie about {key:?} is believed");
    }
    let asked = &block.transactions[usize::from(number) % block.transactions.len()];
    if let Some(claim) = &claim
        && head.transaction(&asked.id(), claim, &proof).is_ok()
    {
        assert_eq!(*claim, asked.encode(), "a transaction that is not in the block is believed");
    }
}

fn keys() -> [Key; 5] {
    let node = *node_key(0).public();
    [Key::Model, Key::Node(node), Key::Account(wallet(0)), Key::Transfer(Hash([5; 32])), Key::Round]
}

fn proof_seeds() -> Vec<Vec<u8>> {
    let (block, state) = (&WORLD.blocks[1], &WORLD.states[2]);
    let entries = keys().into_iter().zip(0u8..).map(|(key, number)| {
        let (entry, proof) = state.prove(&key);
        canonical::encode(&(number, entry.map(canonical::encode), canonical::encode(&proof)))
    });
    let transactions = block.transactions.iter().zip(0u8..).map(|(transaction, number)| {
        let proof = prove_transaction(&block.transactions, usize::from(number)).expect("it is there");
        assert!(proof.verify(&block.header.transactions_root, &transaction_leaf(&transaction.encode())));
        canonical::encode(&(number, Some(transaction.encode()), canonical::encode(&proof)))
    });
    entries.chain(transactions).collect()
}

// ---- Training.

fn payload(data: &[u8]) {
    let Ok(payload) = Payload::open(data, 1 << 20) else { return };
    assert_eq!(payload.seal().0, data, "another encoding of the same payload was taken");
    let update = &payload.update;
    // The model says how many values there must be: here, as many as the header claims, if the bytes may hold them.
    let claimed = update.get(8..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    let count = usize::try_from(claimed).unwrap_or(usize::MAX).min(4 * update.len());
    for codec in Codec::ALL {
        let Ok(values) = codec::decode(codec, &Hash::ZERO, update, count) else { continue };
        assert!(values.iter().all(|value| value.is_finite()));
        let again = codec::encode(codec, &Hash::ZERO, &values).expect("its own values");
        assert!(again == *update, "another encoding of the same update");
    }
}

fn payload_seeds() -> Vec<Vec<u8>> {
    let seal = |codec: Codec, values: &[f32]| {
        let update = codec::encode(codec, &Hash::ZERO, values).expect("finite values");
        let (network, base_root) = (WORLD.network(), Hash([3; 32]));
        Payload { network, round: 2, base_root, node: *node_key(0).public(), salt: [5; 32], update }.seal().0
    };
    let values: Vec<f32> = (0..200).map(|i| (i as f32 - 100.0) / 33.0).collect();
    let of = |codec| [&[], &[0.0; 3][..], &values, &values[..64], &values[..65]].map(|values| seal(codec, values));
    Codec::ALL.into_iter().flat_map(of).collect()
}

// ---- Small things that people type.

fn text(data: &[u8]) {
    fn form<T: FromStr + Display + PartialEq + Debug>(text: &str)
    where
        T::Err: Debug,
    {
        if let Ok(value) = text.parse::<T>() {
            assert_eq!(value.to_string().parse::<T>().expect("its own form"), value);
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    form::<Address>(text);
    form::<Amount>(text);
    form::<Hash>(text);
    form::<PublicKey>(text);
    form::<Checkpoint>(text);
    let _ = presets::change(&WORLD.genesis.params, &[text.into()]); // most are none
}

fn text_seeds() -> Vec<Vec<u8>> {
    let checkpoint = Checkpoint { height: 7, block: Hash([3; 32]) };
    [
        wallet(0).to_string(),
        "18446744073709.551615".into(),
        "0.00000001".into(),
        Hash([3; 32]).to_string(),
        checkpoint.to_string(),
        "training.inner_steps=7".into(),
        "ledger.fee=0.5".into(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

// ---- Snapshots, from peers and from the disk. The first byte says whether it is a head or a part.

fn snapshot_head() -> SnapshotHead {
    SnapshotHead { block: WORLD.lights[2].clone(), bits: 0 }
}

fn snapshot(data: &[u8]) {
    match data.split_first() {
        Some((0, head)) => {
            if let Ok(found) = SnapshotHead::decode(head) {
                assert_eq!(found.encode(), head, "another encoding of the same head was taken");
                let _ = found.block.check(); // most are nobody's
            }
        }
        Some((_, part)) => {
            let header = &WORLD.blocks[2].header;
            if let Ok(found) = Part::decode(part, &header.state_root, 0, 0) {
                assert_eq!(found.encode(), part, "another part of the same state was taken");
                State::assemble(&WORLD.genesis, header, [found].into_iter()).expect("it is the state");
            }
        }
        None => {}
    }
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    let part = WORLD.states[3].parts().part(0).encode();
    vec![[&[0], snapshot_head().encode().as_slice()].concat(), [&[1], part.as_slice()].concat()]
}
