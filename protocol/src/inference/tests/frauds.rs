//! Clients, and stages before, that would have an honest stage sign what convicts it.

use super::*;
use ailo_proto::{Open, Route, Rows};

/// A stage, and what it computes, while the test is its client and whoever is before it.
struct Alone {
    stage: Stage,
    cache: ToyCache,
    layers: Range<u32>,
}

impl Alone {
    fn open(layers: Range<u32>, presence: f64) -> Alone {
        let served = Served {
            model: MODEL,
            layers: layers.clone(),
            total: LAYERS,
            width: WIDTH,
            cache_bytes: 8,
            vocabulary: VOCABULARY,
            context: 4096,
            memory: 1 << 30,
            owner: node(250),
            paid: false,
        };
        let mut alone = Alone {
            stage: Stage::new(served, Box::new(Drafter::new(Vec::new(), 0))),
            cache: ToyCache::new(layers.clone()),
            layers,
        };
        let sampling = Sampling { limit: 400, presence, prompt: 1, ..Sampling::default() };
        let open = Open {
            nonce: 3,
            model: MODEL.0.to_vec().into(),
            first: alone.layers.start,
            end: alone.layers.end,
            room: 400,
            sampling: Some(sampling),
            chunks: Vec::new(),
        };
        assert!(failure(&alone.say(open)).is_none());
        alone
    }

    /// What the client says, and what becomes of it.
    fn say(&mut self, body: impl Into<Body>) -> Vec<stage::Effect> {
        self.hear(node(100), body)
    }

    fn hear(&mut self, from: NodeId, body: impl Into<Body>) -> Vec<stage::Effect> {
        self.stage.handle(from, Frame::of(session_id(&node(100), 3), body))
    }

    fn route(&mut self, epoch: u64, tokens: &[u32]) -> Vec<stage::Effect> {
        let bytes = |i: usize| node(i).0.to_vec().into();
        let (whole, from) = (self.layers.start == 0, tokens.len() as u32 - 1);
        let before = if whole { Vec::new().into() } else { bytes(1) };
        let first = if whole { bytes(0) } else { bytes(1) };
        let route =
            Route { epoch, before, after: Vec::new().into(), first, last: bytes(0), from, tokens: tokens.to_vec() };
        self.say(route)
    }

    /// Computes what there is, as an honest stage does.
    fn compute(&mut self) -> Vec<stage::Effect> {
        let mut effects = Vec::new();
        loop {
            let Some(job) = self.stage.batch(1, 64).pop() else { return effects };
            let rows = match &job.input {
                Input::Tokens(tokens) => tokens.iter().flat_map(|token| embed(*token)).collect(),
                Input::Rows(rows) => rows.clone(),
            };
            let rows = forward(&mut self.cache, job.at, &rows);
            let at = job.at + rows.len() / WIDTH;
            let sampled = match job.sample {
                0 => Vec::new(),
                _ => vec![(sample(&rows[rows.len() - WIDTH..], 0, at), None)],
            };
            effects.extend(self.stage.computed(&job, Ok(Done { rows, sampled })));
            if at > 100 {
                return effects;
            }
        }
    }
}

fn failure(effects: &[stage::Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        stage::Effect::Send(_, Frame { body: Some(Body::Failed(failed)), .. }) => Some(&*failed.reason),
        _ => None,
    })
}

#[test]
fn a_stage_does_not_sign_rows_of_one_text_for_another_that_its_client_names_later() {
    let mut alone = Alone::open(0..LAYERS, 0.0);
    let text: Vec<u32> = (0..40).collect();
    assert!(failure(&alone.route(1, &text)).is_none());
    let input = ailo_proto::Input { epoch: 1, at: 0, tokens: text.clone() };
    alone.say(input);
    alone.compute();
    let mut other = text;
    other[5] += 1;
    let effects = alone.route(2, &other);
    assert_eq!(failure(&effects), Some("the text is not the one that was computed"));
}

#[test]
fn a_stage_of_all_layers_takes_no_token_for_its_own_that_it_has_not_chosen() {
    let text: Vec<u32> = (0..41).collect();
    let begun = || {
        let mut alone = Alone::open(0..LAYERS, 0.0);
        assert!(failure(&alone.route(1, &text[..1])).is_none());
        alone
    };
    let tokens = ailo_proto::Tokens { epoch: 1, at: 1, tokens: text[1..].to_vec(), ..Default::default() };
    assert_eq!(failure(&begun().hear(node(0), tokens)), Some("the last stage chooses what follows"));
    // Of what the client says, it hears what was known when the route was laid.
    let mut alone = begun();
    let input = ailo_proto::Input { epoch: 1, at: 1, tokens: text[1..].to_vec() };
    assert!(failure(&alone.say(input)).is_none());
    let job = alone.stage.batch(1, 64).pop().unwrap();
    assert!(job.at == 0 && matches!(&job.input, Input::Tokens(tokens) if tokens[..] == text[..1]));
}

#[test]
fn a_last_stage_gives_up_where_rows_are_taken_back_that_it_has_chosen_tokens_of() {
    let mut alone = Alone::open(2..LAYERS, 0.0);
    let text: Vec<u32> = (0..10).collect();
    assert!(failure(&alone.route(1, &text)).is_none());
    for at in 0..100u32 {
        let row: Vec<u8> = embed(at).into_iter().flat_map(f32::to_le_bytes).collect();
        let rows = Rows { epoch: 1, at, rows: row.into(), drafts: Vec::new() };
        alone.hear(node(1), rows);
        alone.compute();
    }
    // Of the first chunks what came is forgotten: whole chunks would come again, and the tokens stay that were chosen.
    let written: Vec<u32> = (0..41).collect();
    let effects = alone.route(2, &written);
    assert_eq!(failure(&effects), Some("too much of the text is taken back"));
}

#[test]
fn a_stage_opens_no_session_whose_tokens_machines_could_choose_differently() {
    let opened = |presence: f64| std::panic::catch_unwind(|| Alone::open(0..LAYERS, presence)).is_ok();
    assert!(opened(1.0) && !opened(f64::INFINITY) && !opened(f64::NAN));
}
