//! Causal self-attention over what a sequence has seen, one token and head after another.

use super::{
    math::exp,
    product::{self, LANES, SPAN, largest, sums},
    shape::Shape,
};
use pulp::{Simd, WithSimd};

/// Keys and values of one layer: [K, room, D] each.
pub(super) struct Seen {
    keys: Vec<f32>,
    values: Vec<f32>,
    room: usize,
    head: usize,
}

impl Seen {
    pub fn new(shape: &Shape, room: usize) -> Seen {
        let len = shape.kv_heads * room * shape.head_width;
        Seen { keys: vec![0.0; len], values: vec![0.0; len], room, head: shape.head_width } // Untouched memory costs nothing.
    }

    /// Bytes of a position.
    pub fn position(&self) -> usize {
        2 * size_of::<f32>() * self.keys.len() / self.room.max(1)
    }

    /// Its first `len` positions, with room for `room`.
    pub fn beginning(&self, len: usize, room: usize) -> Seen {
        let head = self.head;
        let copy = |side: &[f32]| {
            let mut copy = vec![0.0; side.len() / self.room.max(1) * room];
            for (from, to) in
                side.chunks_exact((self.room * head).max(1)).zip(copy.chunks_exact_mut((room * head).max(1)))
            {
                to[..len * head].copy_from_slice(&from[..len * head]);
            }
            copy
        };
        Seen { keys: copy(&self.keys), values: copy(&self.values), room, head }
    }
}

/// Attention of the rows of `qkv` [T, (H + 2 K) D], which follow `past` tokens that were seen; gives [T, H D].
pub(super) struct Attention<'a> {
    pub shape: &'a Shape,
    pub qkv: &'a [f32],
    pub past: usize,
    pub seen: &'a mut Seen,
}

impl WithSimd for Attention<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // With indices alone the sums stay in registers.
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Attention { shape, qkv, past, seen } = self;
        let Shape { head_width: head, heads, kv_heads, .. } = *shape;
        let room = seen.room;
        let rows = qkv.chunks_exact(shape.qkv());
        let mut y = vec![0.0; rows.len() * heads * head];
        let mut scores = vec![0.0; past + rows.len()];
        let scale = 1.0 / (head as f32).sqrt();
        let mut spans = vec![[0.0; SPAN]; head.div_ceil(SPAN)]; // A query, and zeros.
        for (at, (row, y)) in (past..).zip(rows.zip(y.chunks_exact_mut(heads * head))) {
            let (queries, own) = row.split_at(heads * head);
            let (keys, values) = own.split_at(kv_heads * head);
            for (kv, (key, value)) in keys.chunks_exact(head).zip(values.chunks_exact(head)).enumerate() {
                seen.keys[(kv * room + at) * head..][..head].copy_from_slice(key);
                seen.values[(kv * room + at) * head..][..head].copy_from_slice(value);
            }
            let scores = &mut scores[..at + 1];
            for (h, (query, y)) in queries.chunks_exact(head).zip(y.chunks_exact_mut(head)).enumerate() {
                let own = h / (heads / kv_heads) * room * head;
                let (keys, values) = (&seen.keys[own..][..(at + 1) * head], &seen.values[own..][..(at + 1) * head]);
                spans.as_flattened_mut()[..head].copy_from_slice(query);
                product::into(simd, &spans, keys, head, scores);
                let most = largest(scores);
                scores.iter_mut().for_each(|score| *score = exp((*score - most) * scale));
                let share = 1.0 / sums(scores).0;
                let (lanes, rest) = y.as_chunks_mut::<LANES>();
                for (place, y) in lanes.iter_mut().enumerate() {
                    let mut sums = [0.0; LANES];
                    for (weight, value) in scores.iter().zip(values.chunks_exact(head)) {
                        let value = &value.as_chunks::<LANES>().0[place];
                        for l in 0..LANES {
                            sums[l] = weight.mul_add(value[l], sums[l]);
                        }
                    }
                    *y = sums;
                }
                for (place, y) in (head / LANES * LANES..).zip(rest) {
                    for (weight, value) in scores.iter().zip(values.chunks_exact(head)) {
                        *y = weight.mul_add(value[place], *y);
                    }
                }
                y.iter_mut().for_each(|y| *y *= share);
            }
        }
        y
    }
}
