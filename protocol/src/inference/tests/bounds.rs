//! What one node can do to another: who asks, to stages; stages, to who asks; and stages to each other.

use super::*;
use ailo_proto::{Failed, FailedWhy, Have, Input as Text, Open, Opened, Place, Route, Rows, Signed, Tokens, Where};

const ASKS: usize = 100;
const AFTER: usize = 2;

/// A stage of the first layers with rows of so many numbers, and a session of so many positions in it.
fn first(width: usize, room: u32) -> Stage {
    let served = Served { layers: 0..3, width, ..served(1 << 30, node(250), false) };
    let mut stage = Stage::new(served, Box::new(Drafter::new(Vec::new(), 1)));
    assert!(!fails(&open(&mut stage, node(ASKS), 1, room)));
    stage
}

fn open(stage: &mut Stage, client: NodeId, nonce: u64, room: u32) -> Vec<stage::Effect> {
    let model = MODEL.0.to_vec().into();
    let open = Open { nonce, model, first: 0, end: 3, room, ..Default::default() };
    stage.handle(client, Frame::of(session_id(&client, nonce), open))
}

fn says(stage: &mut Stage, from: usize, body: impl Into<Body>) -> Vec<stage::Effect> {
    stage.handle(node(from), Frame::of(session_id(&node(ASKS), 1), body))
}

fn lay(stage: &mut Stage, epoch: u64, from: u32) -> Vec<stage::Effect> {
    let bytes = |i: usize| node(i).0.to_vec().into();
    let (after, first, last) = (bytes(AFTER), bytes(0), bytes(AFTER));
    says(stage, ASKS, Route { epoch, after, first, last, from, ..Default::default() })
}

fn computes(stage: &mut Stage, width: usize) -> Vec<stage::Effect> {
    let job = stage.batch(512, 512).pop().unwrap();
    let rows = vec![1.0; job.input.positions(width) * width];
    stage.computed(&job, Ok(Done { rows, sampled: Vec::new() }))
}

/// Positions whose rows are sent to the stage behind.
fn handed(effects: &[stage::Effect], width: usize) -> usize {
    let rows = |effect: &stage::Effect| match effect {
        stage::Effect::Send(to, Frame { body: Some(Body::Rows(Rows { rows, .. })), .. }) if *to == node(AFTER) => {
            rows.len() / (4 * width)
        }
        _ => 0,
    };
    effects.iter().map(rows).sum()
}

fn reason(effects: &[stage::Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        stage::Effect::Send(_, Frame { body: Some(Body::Failed(failed)), .. }) => Some(&*failed.reason),
        _ => None,
    })
}

fn fails(effects: &[stage::Effect]) -> bool {
    reason(effects).is_some()
}

#[test]
fn a_stage_behind_is_handed_as_much_as_it_takes() {
    const WIDTH: usize = 1 << 14;
    let mut stage = first(WIDTH, 99);
    lay(&mut stage, 1, 39);
    says(&mut stage, AFTER, Have { epoch: 1, have: 0 });
    says(&mut stage, ASKS, Text { epoch: 1, at: 0, tokens: vec![7; 40] });
    // A mebibyte are 16 rows.
    assert_eq!(handed(&computes(&mut stage, WIDTH), WIDTH), 16);
    assert!(stage.is_behind() && stage.hand_on(|_| false).is_empty());
    let more = [(); 3].map(|()| handed(&stage.hand_on(|reader| *reader == node(AFTER)), WIDTH));
    assert_eq!(more, [16, 8, 0]);
    assert!(!stage.is_behind());
}

#[test]
fn who_lays_the_route_or_asks_for_rows_again_and_again_loses_the_session() {
    for (asks, room, what) in [(false, 99, "its route is laid anew"), (true, 41, "its rows are asked for")] {
        let mut stage = first(WIDTH, room);
        lay(&mut stage, 1, 39);
        says(&mut stage, ASKS, Text { epoch: 1, at: 0, tokens: vec![7; 40] });
        computes(&mut stage, WIDTH);
        let ended = (2..60).find_map(|epoch| {
            let mut effects = lay(&mut stage, epoch, 39);
            if asks {
                effects.extend(says(&mut stage, AFTER, Have { epoch, have: 0 }));
            }
            reason(&effects).map(|why| (epoch, why.to_string()))
        });
        let (epoch, why) = ended.unwrap();
        assert!(why.contains(what) && epoch > 16 && stage.sessions() == 0, "{why} in epoch {epoch}");
    }
}

/// Guesses that are never right, as many as there may be.
struct Hopeless;

impl Draft for Hopeless {
    fn draft(&mut self, _: &SessionId, _: &[u32], most: usize) -> Vec<u32> {
        vec![0; most]
    }

    fn end(&mut self, _: &SessionId) {}
}

/// A stage behind the first one, whose client is the first stage itself, and pays.
fn behind(room: u32) -> Stage {
    let served = Served { layers: 3..5, ..served(1 << 30, node(250), true) };
    let mut stage = Stage::new(served, Box::new(Drafter::new(Vec::new(), 1)));
    let (id, model) = (session_id(&node(ASKS), 1), MODEL.0.to_vec().into());
    let open = Open { nonce: 1, model, first: 3, end: 5, room, ..Default::default() };
    assert!(!fails(&stage.handle(node(ASKS), Frame::of(id, open))));
    stage.pay(&id, room as usize);
    let bytes = |i: usize| node(i).0.to_vec().into();
    let (before, after, first, last) = (bytes(ASKS), bytes(AFTER), bytes(ASKS), bytes(AFTER));
    says(&mut stage, ASKS, Route { epoch: 1, before, after, first, last, ..Default::default() });
    stage
}

#[test]
fn drafts_that_are_not_met_are_computed_a_few_times_for_each_position_that_is_paid() {
    const ROOM: usize = 200;
    let row = |at: usize, drafts: usize| Rows {
        epoch: 1,
        at: at as u32,
        rows: vec![0; 4 * WIDTH * (1 + drafts)].into(),
        drafts: vec![0; drafts],
    };
    // Whoever sends as many as a frame holds is refused with the second.
    let mut stage = behind(ROOM as u32);
    assert!(!fails(&says(&mut stage, ASKS, row(0, stage::MAX_DRAFTS))));
    computes(&mut stage, WIDTH);
    let refused = says(&mut stage, ASKS, row(1, stage::MAX_DRAFTS));
    assert_eq!((reason(&refused), stage.waiting()), (Some("too few of its drafts are met"), 0));

    // However many are tried.
    for drafts in 1..=stage::MAX_DRAFTS {
        let (mut stage, mut computed) = (behind(ROOM as u32), 0);
        for at in 0..ROOM - stage::MAX_DRAFTS {
            let more = if fails(&says(&mut stage, ASKS, row(at, drafts))) { 0 } else { drafts };
            if more == 0 {
                says(&mut stage, ASKS, row(at, 0));
            }
            computed += 1 + more;
            computes(&mut stage, WIDTH);
        }
        assert!(computed <= 5 * ROOM + stage::MAX_DRAFTS, "{computed} positions with {drafts} drafts each");
        assert!(drafts > 4 || computed == (1 + drafts) * (ROOM - stage::MAX_DRAFTS), "{drafts} hold nobody up");
    }
}

#[test]
fn a_first_stage_whose_drafts_are_never_met_sends_no_more_than_the_others_take() {
    const TEXT: u32 = 150;
    let served = Served { layers: 0..3, ..served(1 << 30, node(250), false) };
    let (mut stage, mut second) = (Stage::new(served, Box::new(Hopeless)), behind(200));
    assert!(!fails(&open(&mut stage, node(ASKS), 1, 200)));
    lay(&mut stage, 1, 0);
    says(&mut stage, AFTER, Have { epoch: 1, have: 0 });
    says(&mut stage, ASKS, Text { epoch: 1, at: 0, tokens: vec![7] });
    let mut drafts = 0;
    for at in 1..=TEXT {
        for effect in computes(&mut stage, WIDTH) {
            if let stage::Effect::Send(_, Frame { body: Some(Body::Rows(rows)), .. }) = effect {
                drafts += rows.drafts.len();
                // It is the same to the second stage who the first one is.
                let effects = says(&mut second, ASKS, rows);
                assert_eq!(reason(&effects), None, "at {at}");
                computes(&mut second, WIDTH);
            }
        }
        says(&mut stage, AFTER, Tokens { epoch: 1, at, tokens: vec![7], ..Default::default() });
    }
    assert_eq!(drafts, stage::MAX_DRAFTS + 4 * TEXT as usize, "it tries all that it may");
}

#[test]
fn strangers_words_push_no_neighbours_out() {
    let mut stage = first(WIDTH, 99);
    lay(&mut stage, 1, 3);
    for (i, epoch) in [u64::MAX, 9, 9, 9, 9, 9].into_iter().enumerate() {
        says(&mut stage, 200 + i, Have { epoch, have: 0 });
    }
    says(&mut stage, AFTER, Have { epoch: 2, have: 0 });
    for i in 0..6 {
        says(&mut stage, 210 + i, Have { epoch: 9, have: 0 });
    }
    lay(&mut stage, 2, 3);
    says(&mut stage, ASKS, Text { epoch: 2, at: 0, tokens: vec![7; 4] });
    assert_eq!(handed(&computes(&mut stage, WIDTH), WIDTH), 4);
}

#[test]
fn a_prompt_that_waits_longest_is_read_before_single_tokens() {
    let mut stage = Stage::new(served(1 << 22, node(250), false), Box::new(Drafter::new(Vec::new(), 1)));
    let mut begin = |client: usize, length: usize| {
        let (client, tokens) = (node(client), vec![7; length]);
        opens_at(&mut stage, &client, 1, Hash::ZERO, &tokens).unwrap();
        let me = || node(0).0.to_vec().into();
        let (epoch, from) = (1, length as u32 - 1);
        let route = Route { epoch, first: me(), last: me(), from, tokens, ..Default::default() };
        stage.handle(client, Frame::of(session_id(&client, 1), route));
    };
    begin(100, 400);
    (101..121).for_each(|client| begin(client, 1));
    let prompt = session_id(&node(100), 1);
    let jobs = stage.batch(16, 16);
    assert!(jobs[0].session == prompt && jobs[0].input.positions(WIDTH) == 4, "{:?}", jobs[0]);
    assert_eq!(jobs.len(), 13, "and those that there is place for beside it");
    let jobs = stage.batch(64, 64);
    let read = jobs.iter().find(|job| job.session == prompt).unwrap();
    assert!(read.input.positions(WIDTH) > 30, "what others leave is the prompt's");
}

#[test]
fn a_session_that_does_not_go_on_ends_however_much_is_said_of_it() {
    for paid in [false, true] {
        let served = Served { layers: 0..3, ..served(1 << 20, node(250), paid) };
        let mut stage = Stage::new(served, Box::new(Drafter::new(Vec::new(), 1)));
        open(&mut stage, node(ASKS), 1, 99);
        let id = session_id(&node(ASKS), 1);
        let sweeps = (1..100).find(|_| {
            // A payment that adds nothing keeps nothing alive.
            stage.pay(&id, 10);
            says(&mut stage, ASKS, Where {});
            fails(&stage.sweep())
        });
        assert_eq!((sweeps, stage.sessions()), (Some(60), 0));
    }
}

#[test]
fn a_first_text_takes_more_than_half_only_where_nobody_else_has_one() {
    // A position takes 3 x 8 + 16 bytes.
    let stage = || {
        let served = Served { layers: 0..3, ..served(700 * 40, node(250), false) };
        Stage::new(served, Box::new(Drafter::new(Vec::new(), 1)))
    };
    assert!(!fails(&open(&mut stage(), node(7), 1, 400)));
    let mut other = stage();
    open(&mut other, node(8), 1, 100);
    let refused = open(&mut other, node(7), 1, 400);
    assert!(reason(&refused).is_some_and(|why| why.contains("half of the memory")));
    assert!(!fails(&open(&mut other, node(7), 1, 300)));
}

fn left_out(effects: &[client::Effect]) -> Vec<NodeId> {
    let left = |effect: &client::Effect| match effect {
        client::Effect::LeftOut(node, _) => Some(*node),
        _ => None,
    };
    effects.iter().filter_map(left).collect()
}

/// Stages that are all there, each of them once; who is left out is not chosen again.
struct Spans(Vec<(usize, Range<u32>)>);

impl Routes for Spans {
    fn route(
        &mut self,
        layers: Range<u32>,
        _: Option<(NodeId, NodeId)>,
        without: &HashSet<NodeId>,
    ) -> Option<client::Stages> {
        let (mut at, mut route) = (layers.start, Vec::new());
        while at < layers.end {
            let fits = |(i, span): &&(usize, Range<u32>)| span.start == at && !without.contains(&node(*i));
            let (i, span) = self.0.iter().find(fits)?;
            route.push((node(*i), span.clone()));
            at = span.end;
        }
        Some(route)
    }

    fn gap(&mut self, _: Range<u32>, _: &HashSet<NodeId>) -> Option<Range<u32>> {
        None
    }
}

/// Opens whatever a client asks for.
fn opened(client: &mut Client, effects: &[client::Effect], routes: &mut Spans) {
    for node in opens(effects) {
        client.handle(1, node, Frame::of(client.id(), Opened { have: 0 }), routes);
    }
}

fn begun(spans: &[(usize, Range<u32>)]) -> (Client, Spans) {
    let (mut client, mut routes) = (asker(), Spans(spans.to_vec()));
    let effects = client.start(0, &mut routes);
    opened(&mut client, &effects, &mut routes);
    (client, routes)
}

fn tell(client: &mut Client, now: u64, from: usize, body: impl Into<Body>, routes: &mut Spans) -> Vec<client::Effect> {
    client.handle(now, node(from), Frame::of(client.id(), body), routes)
}

#[test]
fn what_is_no_token_or_no_end_of_the_text_is_not_believed() {
    let tokens = |tokens: &[u32], finish: Finish| Tokens {
        epoch: 1,
        at: 1,
        tokens: tokens.to_vec(),
        finish: finish.into(),
        ..Default::default()
    };
    let end = 5;
    let wrong = [
        tokens(&[VOCABULARY], Finish::None),
        tokens(&[u32::MAX, 3], Finish::None),
        tokens(&[3], Finish::Stop),
        tokens(&[3], Finish::Length),
        tokens(&[end], Finish::None),
        tokens(&[end], Finish::Length),
        tokens(&[end, 3], Finish::None),
        tokens(&[], Finish::Stop),
        tokens(&[3; 99], Finish::None),
        tokens(&[3; 100], Finish::Length),
    ];
    let right = [tokens(&[3], Finish::None), tokens(&[3, end], Finish::Stop), tokens(&[3; 99], Finish::Length)];
    for (said, is_right) in wrong.into_iter().map(|said| (said, false)).chain(right.map(|said| (said, true))) {
        let sampling = Sampling { limit: 100, prompt: 1, ends: vec![end], ..Sampling::default() };
        let mut client = Client::new(&node(100), 7, Request { sampling, ..request(vec![1]) });
        let mut routes = Spans(vec![(1, 0..LAYERS), (2, 0..LAYERS)]);
        let effects = client.start(0, &mut routes);
        opened(&mut client, &effects, &mut routes);
        let effects = tell(&mut client, 2, 1, said.clone(), &mut routes);
        let went_on = client.tokens().len() > 1;
        assert_eq!((went_on, left_out(&effects).is_empty()), (is_right, is_right), "{said:?}");
        assert_eq!(opens(&effects).contains(&node(2)), !is_right);
    }
}

fn blames(client: &mut Client, from: usize, blamed: usize, epoch: u64, routes: &mut Spans) -> Vec<client::Effect> {
    let failed =
        Failed { epoch, why: FailedWhy::Neighbour.into(), node: node(blamed).0.to_vec().into(), ..Default::default() };
    tell(client, 2, from, failed, routes)
}

#[test]
fn a_stage_is_believed_of_those_beside_it_alone_and_goes_with_the_second() {
    let spans = [(1, 0..2), (2, 2..3), (3, 3..4), (4, 4..6), (5, 2..3), (6, 2..3), (7, 0..2)];
    let (mut client, mut routes) = begun(&spans);
    assert_eq!(left_out(&blames(&mut client, 1, 3, 1, &mut routes)), []);
    assert_eq!(left_out(&blames(&mut client, 1, 1, 1, &mut routes)), []);
    let effects = blames(&mut client, 1, 2, 1, &mut routes);
    assert_eq!(left_out(&effects), [node(2)]);
    opened(&mut client, &effects, &mut routes);
    // Nobody beside it is left out for another one's words.
    let effects = blames(&mut client, 1, 5, 2, &mut routes);
    assert_eq!(left_out(&effects), [node(5), node(1)]);
    opened(&mut client, &effects, &mut routes);
    let stages: Vec<NodeId> = client.open_stages().into_iter().map(|(node, _)| node).collect();
    assert_eq!(stages, [7, 6, 3, 4].map(node));
    // The last one's tokens go to the first.
    assert_eq!(left_out(&blames(&mut client, 4, 7, 3, &mut routes)), [node(7)]);
}

#[test]
fn what_a_stage_can_t_compute_may_be_the_fault_of_who_gave_it_out() {
    let spans = [(1, 0..3), (2, 3..6), (3, 0..3), (4, 3..6), (5, 0..3), (6, 3..6)];
    let (mut client, mut routes) = begun(&spans);
    let cant = || Failed { why: FailedWhy::Compute.into(), reason: "no numbers".into(), ..Default::default() };
    let effects = tell(&mut client, 2, 2, cant(), &mut routes);
    assert_eq!((left_out(&effects), failure(&effects)), (vec![node(2), node(1)], None));
    opened(&mut client, &effects, &mut routes);
    // Where another one gave it out, it is the text.
    let why = failure(&tell(&mut client, 3, 4, cant(), &mut routes));
    assert!(matches!(why, Some(Failure::Compute(_))), "{why:?}");

    // What the same one gives out shows nothing new.
    let (mut client, mut routes) = begun(&[(1, 0..3), (2, 3..6), (4, 3..6)]);
    let effects = tell(&mut client, 2, 2, cant(), &mut routes);
    opened(&mut client, &effects, &mut routes);
    let effects = (50..2000).step_by(50).map(|now| client.tick(now, &mut routes)).find(|did| !opens(did).is_empty());
    opened(&mut client, &effects.unwrap(), &mut routes);
    let again: Vec<NodeId> = client.open_stages().into_iter().map(|(node, _)| node).collect();
    assert_eq!(again[0], node(1), "nobody else has its layers");
    let sender = client.open_stages()[1].0;
    let frame = Frame::of(client.id(), cant());
    assert_eq!(failure(&client.handle(200, sender, frame, &mut routes)), None);
}

/// What becomes of a text while its stages answer so when they are asked.
fn watched(client: &mut Client, routes: &mut Spans, mut place: impl FnMut(usize) -> Place) -> (u64, Vec<NodeId>) {
    for now in (50..200_000).step_by(50) {
        let effects = client.tick(now, routes);
        let left = left_out(&effects);
        if !left.is_empty() {
            return (now, left);
        }
        for effect in effects {
            if let client::Effect::Send(to, Frame { body: Some(Body::Where(_)), .. }) = effect {
                let i = (0..100).find(|i| node(*i) == to).unwrap();
                tell(client, now, i, place(i), routes);
            }
        }
    }
    panic!("the text hangs");
}

#[test]
fn who_creeps_holds_a_text_no_longer_than_its_length_is_worth() {
    let (mut client, mut routes) = begun(&[(1, 0..LAYERS), (2, 0..LAYERS)]);
    let mut asked = 0;
    let (now, left) = watched(&mut client, &mut routes, |_| {
        asked += 1;
        Place { epoch: 1, received: 1, computed: asked / 2, ..Default::default() }
    });
    assert!(left == [node(1)] && (25_000..35_000).contains(&now), "{left:?} after {now} ms");
}

#[test]
fn of_two_where_one_says_that_it_sent_what_did_not_come_both_go() {
    let spans = [(1, 0..3), (2, 3..6), (3, 0..3), (4, 3..6)];
    let (mut client, mut routes) = begun(&spans);
    let (_, left) = watched(&mut client, &mut routes, |i| match i {
        1 => Place { epoch: 1, received: 1, computed: 1, sent: 1, ..Default::default() },
        _ => Place { epoch: 1, ..Default::default() },
    });
    assert_eq!(left, [node(2), node(1)]);
}

#[test]
fn the_text_is_told_once_in_an_epoch() {
    let (mut client, mut routes) = begun(&[(1, 0..LAYERS)]);
    let mut told = || {
        let effects = tell(&mut client, 2, 1, Have { epoch: 1, have: 0 }, &mut routes);
        effects
            .iter()
            .filter(|effect| matches!(effect, client::Effect::Send(_, Frame { body: Some(Body::Input(_)), .. })))
            .count()
    };
    assert_eq!([told(), told()], [1, 0]);
}

#[test]
fn what_a_stage_has_signed_is_proven_and_a_token_proves_a_part() {
    let text: Vec<u32> = (0..90).collect();
    let sampling = Sampling { limit: 400, prompt: 90, ..Sampling::default() };
    let mut client = Client::new(&node(100), 7, Request { sampling, ..request(text.clone()) });
    let mut routes = Spans(vec![(1, 0..LAYERS)]);
    let effects = client.start(0, &mut routes);
    assert_eq!(client.proven(&node(1)), None, "it has not opened");
    opened(&mut client, &effects, &mut routes);
    assert_eq!(client.proven(&node(1)), Some(0));
    let signed = |chunk: usize| {
        let bytes = |hash: Hash| hash.0.to_vec().into();
        let came = chunks(&text)[chunk];
        let (came, gave, signature) = (bytes(came), bytes(came), vec![0; 64].into());
        Signed { epoch: 1, chunk: chunk as u32, came, gave, signature, wrote: true, height: 0 }
    };
    tell(&mut client, 2, 1, signed(1), &mut routes);
    assert_eq!(client.proven(&node(1)), Some(0), "the first is missing");
    tell(&mut client, 2, 1, signed(0), &mut routes);
    assert_eq!(client.proven(&node(1)), Some(64));
    let tokens = Tokens { epoch: 1, at: 90, tokens: vec![3], ..Default::default() };
    tell(&mut client, 3, 1, tokens, &mut routes);
    assert_eq!(client.proven(&node(1)), Some(91));
    let tokens = Tokens { epoch: 1, at: 91, tokens: vec![3; 200], ..Default::default() };
    tell(&mut client, 3, 1, tokens, &mut routes);
    assert_eq!(client.proven(&node(1)), Some(64 + 4 * CHUNK));
}
