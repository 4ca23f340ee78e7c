//! One host among hand-made messages: what it votes for, passes on, and refuses.

#![allow(clippy::unwrap_used)]
use super::{codec::Signed, *};
use crate::{
    Block, Certificate,
    block::transactions_root,
    framelog::LogError,
    state::{State, build_block, testing},
};
use ailo_protocol::{Hash, Keypair, NodeId};
use std::sync::Arc;

/// Files that keep nothing: these hosts never restart.
pub(crate) struct NoFiles;

impl Persist for NoFiles {
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

/// A host that is not the proposer of the first round of four validators.
struct Bench {
    host: Host<NoFiles>,
    state: State,
    proposer: Keypair,
    others: Vec<Keypair>,
    now_ms: u64,
}

impl Bench {
    fn new() -> Bench {
        let state = State::genesis(&testing::genesis(4, |_| {}));
        let keys: Vec<Keypair> = (0..4).map(testing::node_key).collect();
        let now_ms = state.time_ms() + 1000;
        let probe = Host::<NoFiles>::new(state.clone(), keys[0].clone(), None, None).unwrap();
        let (_, proposer) = probe.round();
        let (proposer, mut others): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| *key.public() == proposer);
        let me = others.pop().unwrap();
        let mut host = Host::new(state.clone(), me, Some(NoFiles), None).unwrap();
        host.handle(Input::Start, now_ms).unwrap();
        Bench { host, state, proposer: proposer[0].clone(), others, now_ms }
    }

    fn block(&self, time_ms: u64) -> Block {
        build_block(&self.state, *self.proposer.public(), time_ms, None, std::iter::empty()).unwrap().0
    }

    fn ballot(&self, step: Step, block: Option<Hash>) -> Ballot {
        Ballot { height: 1, round: 0, step, block }
    }

    fn signed(&self, key: &Keypair, step: Step, block: Option<Hash>) -> Signed {
        self.ballot(step, block).sign(&self.state.network(), key)
    }

    fn proposal(&self, block: Block) -> Message {
        let signed = self.signed(&self.proposer, Step::Propose { pol_round: None }, Some(block.id()));
        Message::Proposal(signed, Arc::new(block))
    }

    /// The verdict on a message, and the ballots that this node cast then.
    fn hear(&mut self, message: Message) -> (Verdict, Vec<Ballot>) {
        let outputs = self.host.handle(Input::Message(message), self.now_ms).unwrap();
        let mut ballots = Vec::new();
        for output in &outputs {
            let Output::Broadcast { bytes, .. } = output else { continue };
            if let Message::Vote(signed) = Message::decode(bytes).unwrap() {
                assert!(signed.verifies(&self.state.network()));
                ballots.push(signed.ballot);
            }
        }
        match &outputs[0] {
            Output::Verdict(verdict) => (*verdict, ballots),
            output => panic!("the verdict comes first, not {output:?}"),
        }
    }

    fn certificate(&self, block: &Block) -> Certificate {
        let id = block.id();
        let keys = self.others.iter().chain([&self.proposer]);
        let mut signatures: Vec<_> =
            keys.map(|key| self.signed(key, Step::Precommit, Some(id))).map(|s| (s.node, s.signature)).collect();
        signatures.sort_unstable();
        Certificate { height: 1, round: 0, block: id, signatures }
    }
}

#[test]
fn a_valid_block_is_prevoted_and_two_thirds_of_prevotes_are_precommitted() {
    let mut bench = Bench::new();
    let block = bench.block(bench.now_ms);
    let id = Some(block.id());
    let prevote = bench.ballot(Step::Prevote, id);
    assert_eq!(bench.hear(bench.proposal(block)), (Verdict::Accept, vec![prevote]));
    let votes = [bench.others[0].clone(), bench.proposer.clone()].map(|key| bench.signed(&key, Step::Prevote, id));
    assert_eq!(bench.hear(Message::Vote(votes[0])), (Verdict::Accept, vec![]));
    let precommit = bench.ballot(Step::Precommit, id);
    assert_eq!(bench.hear(Message::Vote(votes[1])), (Verdict::Accept, vec![precommit]));
}

#[test]
fn a_block_with_a_wrong_root_or_another_proposer_is_prevoted_nil() {
    let change: [fn(&mut Block, &Bench); 2] = [
        |block, _| block.header.state_root = Hash([3; 32]),
        |block, bench| block.header.proposer = *bench.others[0].public(),
    ];
    for change in change {
        let mut bench = Bench::new();
        let mut block = bench.block(bench.now_ms);
        change(&mut block, &bench);
        let nil = bench.ballot(Step::Prevote, None);
        assert_eq!(bench.hear(bench.proposal(block)), (Verdict::Accept, vec![nil]));
    }
}

#[test]
fn a_fresh_block_may_lie_the_skew_ahead_of_the_clock_and_no_more() {
    for (more, votes_for_it) in [(0, true), (1, false)] {
        let mut bench = Bench::new();
        let time_ms = bench.now_ms + bench.state.params().ledger.skew_ms + more;
        let block = bench.block(time_ms);
        let prevote = bench.ballot(Step::Prevote, votes_for_it.then(|| block.id()));
        assert_eq!(bench.hear(bench.proposal(block)), (Verdict::Accept, vec![prevote]));
    }
}

#[test]
fn what_nobody_honest_sends_is_rejected_and_what_is_of_no_use_ignored() {
    let mut bench = Bench::new();
    let good = bench.block(bench.now_ms);
    let id = Some(good.id());
    let stranger = Keypair::from_seed([77; 32]);

    // A body that is not the header's.
    let mut other = good.clone();
    other.transactions.push(crate::Transaction::sign(
        &bench.state.network(),
        &stranger,
        0,
        0,
        crate::Body::Heartbeat { trains: true, class: Hash::ZERO },
    ));
    assert_ne!(transactions_root(&other.transactions), good.header.transactions_root);
    let signed = bench.signed(&bench.proposer, Step::Propose { pol_round: None }, id);
    assert_eq!(bench.hear(Message::Proposal(signed, Arc::new(other))), (Verdict::Reject, vec![]));
    // A polka round that is not earlier; a signature of somebody else.
    let same_round = bench.signed(&bench.proposer, Step::Propose { pol_round: Some(0) }, id);
    assert_eq!(bench.hear(Message::Proposal(same_round, Arc::new(good.clone()))), (Verdict::Reject, vec![]));
    let not_its = Signed { node: *bench.others[0].public(), ..signed };
    assert_eq!(bench.hear(Message::Proposal(not_its, Arc::new(good.clone()))), (Verdict::Reject, vec![]));
    // Votes.
    let vote = bench.signed(&bench.others[0], Step::Prevote, id);
    let forged = Signed { node: *bench.others[1].public(), ..vote };
    let forged_stranger = Signed { node: *stranger.public(), ..vote };
    for bad in [forged, forged_stranger, signed] {
        assert_eq!(bench.hear(Message::Vote(bad)), (Verdict::Reject, vec![]));
    }
    assert_eq!(bench.hear(Message::Vote(vote)), (Verdict::Accept, vec![]));
    assert_eq!(bench.hear(Message::Vote(vote)), (Verdict::Ignore, vec![]));
    let far = Ballot { round: 11, ..vote.ballot }.sign(&bench.state.network(), &bench.others[0]);
    assert_eq!(bench.hear(Message::Vote(far)), (Verdict::Ignore, vec![]));
    let past = Ballot { height: 0, ..vote.ballot }.sign(&bench.state.network(), &bench.others[0]);
    assert_eq!(bench.hear(Message::Vote(past)), (Verdict::Ignore, vec![]));
    // Certificates.
    let mut weak = bench.certificate(&good);
    weak.signatures.truncate(2);
    assert_eq!(bench.hear(Message::Polka(weak)), (Verdict::Reject, vec![]));
}

#[test]
fn what_a_node_one_height_behind_would_pass_on_is_not_held_against_it() {
    let mut bench = Bench::new();
    let block = bench.block(bench.now_ms);
    let id = Some(block.id());
    let stranger = Keypair::from_seed([77; 32]);
    // Proposals of a validator whose turn it is not, and of a node that is no validator; the latter's vote.
    for key in [bench.others[0].clone(), stranger.clone()] {
        let signed = bench.signed(&key, Step::Propose { pol_round: None }, id);
        assert_eq!(bench.hear(Message::Proposal(signed, Arc::new(block.clone()))), (Verdict::Ignore, vec![]));
    }
    for step in [Step::Prevote, Step::Precommit] {
        let vote = bench.signed(&stranger, step, id);
        assert_eq!(bench.hear(Message::Vote(vote)), (Verdict::Ignore, vec![]));
    }
    // None of it took the proposer's place.
    let prevote = bench.ballot(Step::Prevote, id);
    assert_eq!(bench.hear(bench.proposal(block)), (Verdict::Accept, vec![prevote]));
}

#[test]
fn a_vote_of_the_next_height_says_that_this_node_is_behind() {
    let mut bench = Bench::new();
    let vote = |height, key: &Keypair| {
        let ballot = Ballot { height, round: 0, step: Step::Prevote, block: None };
        Message::Vote(ballot.sign(&bench.state.network(), key))
    };
    let (next, far) = (vote(2, &bench.others[0]), vote(9, &bench.others[0]));
    let strange = vote(9, &Keypair::from_seed([77; 32]));
    let mut heard = |message| bench.host.handle(Input::Message(message), bench.now_ms).unwrap();
    let behind = |outputs: &[Output]| {
        outputs.iter().find_map(|output| match output {
            Output::Behind { height } => Some(*height),
            _ => None,
        })
    };
    assert_eq!(behind(&heard(next.clone())), Some(2));
    let again = heard(next);
    assert!(again.iter().any(|output| matches!(output, Output::Verdict(Verdict::Ignore))));
    assert_eq!(behind(&heard(far)), Some(9));
    assert_eq!(behind(&heard(strange)), None);
}

#[test]
fn a_synced_block_is_decided_by_its_certificate_alone() {
    let mut bench = Bench::new();
    let block = bench.block(bench.now_ms + 1_000_000); // its time is nobody's business any more
    let certificate = bench.certificate(&block);
    let mut give = |block: &Block, certificate: &Certificate| {
        let input = Input::Synced(Arc::new(block.clone()), certificate.clone());
        bench.host.handle(input, bench.now_ms).unwrap()
    };
    let verdict = |outputs: &[Output]| match outputs[0] {
        Output::Verdict(verdict) => verdict,
        _ => panic!("the verdict comes first"),
    };
    let mut weak = certificate.clone();
    weak.signatures.pop();
    assert_eq!(verdict(&give(&block, &weak)), Verdict::Reject);
    let mut other = block.clone();
    other.header.time_ms += 1;
    assert_eq!(verdict(&give(&other, &certificate)), Verdict::Reject);
    let outputs = give(&block, &certificate);
    assert_eq!(verdict(&outputs), Verdict::Accept);
    assert!(outputs.iter().any(|o| matches!(o, Output::Decided(d) if d.block.id() == block.id())));
    assert_eq!(verdict(&give(&block, &certificate)), Verdict::Ignore);
    bench.host.handle(Input::Committed { height: 1 }, bench.now_ms).unwrap();
    assert_eq!(bench.host.state().last_block(), block.id());
}

#[test]
fn a_certified_block_that_is_invalid_here_stops_the_host() {
    let mut bench = Bench::new();
    let mut block = bench.block(bench.now_ms);
    block.header.state_root = Hash([3; 32]);
    let certificate = bench.certificate(&block);
    let input = Input::Synced(Arc::new(block), certificate);
    let error = bench.host.handle(input, bench.now_ms).unwrap_err();
    assert!(matches!(error, HostError::Fork { height: 1, .. }), "{error}");
    assert!(matches!(bench.host.handle(Input::Start, bench.now_ms), Err(HostError::Stopped)));
}

#[test]
fn without_files_a_validator_follows_and_signs_nothing() {
    let bench = Bench::new();
    let nodes: Vec<NodeId> = bench.state.validators().0.iter().map(|validator| validator.node).collect();
    let me = (0..4).map(testing::node_key).find(|key| nodes.contains(key.public())).unwrap();
    let mut host = Host::<NoFiles>::new(bench.state.clone(), me, None, None).unwrap();
    let block = bench.block(bench.now_ms);
    let id = Some(block.id());
    let mut inputs = vec![Input::Start, Input::Message(bench.proposal(block))];
    for step in [Step::Prevote, Step::Precommit] {
        for key in bench.others.iter().chain([&bench.proposer]) {
            inputs.push(Input::Message(Message::Vote(bench.signed(key, step, id))));
        }
    }
    let outputs: Vec<Output> = inputs.into_iter().flat_map(|input| host.handle(input, bench.now_ms).unwrap()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, Output::Broadcast { .. } | Output::WantBlock { .. })));
    assert!(outputs.iter().any(|output| matches!(output, Output::Decided(_))));
}

#[test]
fn whose_turn_it_is_reveals_its_lot_and_the_same_after_a_restart() {
    let mut ledger = testing::Ledger::new(4, |_| {});
    ledger.block((0..4).map(|i| ledger.commit_lots(&testing::node_key(i), 1)).collect());
    ledger.pass(120_000);
    let (state, now_ms) = (&ledger.state, ledger.state.time_ms() + 1000);
    let propose = |key: Keypair| {
        let mut host = Host::new(state.clone(), key, Some(NoFiles), None).unwrap();
        let started = host.handle(Input::Start, now_ms).unwrap();
        let turn = |output: &Output| match output {
            Output::WantBlock { height, round } => Some((*height, *round)),
            _ => None,
        };
        let (height, round) = started.iter().find_map(turn)?;
        let proposed = host.handle(Input::Propose { height, round, candidates: Vec::new() }, now_ms).unwrap();
        proposed.iter().find_map(|output| match output {
            Output::Broadcast { bytes, .. } => match Message::decode(bytes).unwrap() {
                Message::Proposal(_, block) => Some(block.header.clone()),
                _ => None,
            },
            _ => None,
        })
    };
    let proposals: Vec<_> = (0..4).chain(0..4).filter_map(|i| propose(testing::node_key(i))).collect();
    let [first, again] = &proposals[..] else { panic!("one of four has its turn, twice") };
    assert_eq!(first, again);
    assert_eq!(first.reveal, ledger.context_of(first.proposer, 1000).reveal);
    assert!(first.reveal.is_some());
}
