//! A graphics card as a decoder needs it: memory, and the kernels of `kernels.cu`, each behind a function that checks what they rest on. They
//! make every number by the same operations in the same order as the processor's engine, so they have its bits.
//!
//! It takes NVIDIA's driver alone, 530 or later, and a card of 2016 or later (compute capability 6.1): nothing of CUDA's toolkit or libraries.

mod driver;

use driver::{Address, Argument, Driver, Kernel};
use std::{ffi::CStr, fmt, marker::PhantomData, path::Path, sync::Arc};

/// The kernels, made by `scripts/ptx`.
const PTX: &str = concat!(include_str!("kernels.ptx"), "\0");
/// The driver's name for the system's loader.
pub const LIBRARY: &str = "libcuda.so.1";
/// Columns of matrices are filled up with zeros to a multiple of this.
pub const SPAN: usize = 64;
/// Threads that make a number.
const LANES: usize = 16;
/// Threads of a block.
const BLOCK: usize = 128;
/// Blocks in the second and the third direction, at most.
const MAX_BLOCKS: usize = 65_535;
/// Bytes of scores that are held at once, at most, unless a single row needs more.
const SCORES: usize = 64 << 20;

/// What can go wrong with a card.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GpuError {
    /// No driver, or no card.
    #[error("there is no NVIDIA driver with a card here")]
    None,
    /// A driver that lacks a function, or can't compile the kernels.
    #[error("NVIDIA's driver is too old ({0}): install 530 or later")]
    Old(String),
    /// No memory is left.
    #[error("the card's memory is full")]
    Memory,
    /// What the driver says.
    #[error("NVIDIA's driver could not {what}: {why}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        why: String,
    },
    /// What was to be computed does not fit what is there.
    #[error("the card was asked for something else than what is there: {0}")]
    Size(&'static str),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, GpuError>;

fn need(what: &'static str, holds: bool) -> Result<()> {
    if holds { Ok(()) } else { Err(GpuError::Size(what)) }
}

fn number(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| GpuError::Size("a number is too large"))
}

/// A card; clones are the same one.
#[derive(Clone)]
pub struct Gpu(Arc<Card>);

struct Card {
    driver: Arc<Driver>,
    name: String,
    normalise: Kernel,
    integers: Kernel,
    heads: Kernel,
    scores: Kernel,
    largest: Kernel,
    weigh: Kernel,
    shared: Kernel,
    values: Kernel,
    activate: Kernel,
    /// For each type, by rows: 1, up to 4, up to 8, and more.
    products: [[Kernel; 4]; 4],
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gpu").field(&self.0.name).finish()
    }
}

/// A range of a card's memory.
struct Buffer {
    driver: Arc<Driver>,
    at: Address,
    bytes: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.driver.free(self.at);
    }
}

impl Buffer {
    fn new(driver: &Arc<Driver>, bytes: usize) -> Result<Buffer> {
        // The driver has no empty ranges.
        Ok(Buffer { driver: driver.clone(), at: driver.allocate(bytes.max(1))?, bytes })
    }

    /// One for so many things of a size, or more than any card has.
    fn of(driver: &Arc<Driver>, factors: &[usize]) -> Result<Buffer> {
        let bytes = factors.iter().try_fold(1_usize, |bytes, factor| bytes.checked_mul(*factor));
        Buffer::new(driver, bytes.ok_or(GpuError::Memory)?)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        need("a buffer", at.checked_add(bytes.len()).is_some_and(|end| end <= self.bytes))?;
        if bytes.is_empty() { Ok(()) } else { self.driver.write(self.at + at as u64, bytes) }
    }
}

/// Float32 numbers on a card.
pub struct Floats(Buffer);

impl Floats {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.bytes / 4
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes numbers to its beginning.
    ///
    /// # Errors
    ///
    /// [`GpuError::Size`] if they are more than it has, and what the driver says.
    pub fn write(&mut self, numbers: &[f32]) -> Result<()> {
        self.0.write(0, &bytes_of(numbers))
    }

    /// The first so many, once all that was begun is done.
    ///
    /// # Errors
    ///
    /// As [`write`](Floats::write).
    pub fn read(&self, count: usize) -> Result<Vec<f32>> {
        need("numbers", count <= self.len())?;
        let mut bytes = vec![0; count * 4];
        if count > 0 {
            self.0.driver.read(self.0.at, &mut bytes)?;
        }
        Ok(bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }

    fn at(&self, first: usize) -> Argument {
        Argument::Address(self.0.at + 4 * first as u64)
    }
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn optional(floats: Option<&Floats>) -> Argument {
    floats.map_or(Argument::Address(0), |floats| floats.at(0))
}

/// How a matrix' numbers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper halves of 32-bit floats.
    Bf16,
    /// 8-bit integers, with a scale for each row.
    Int8,
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F16 | Kind::Bf16 => 2,
            Kind::Int8 => 1,
        }
    }
}

/// A matrix [outs, width] on a card; its rows are filled up with zeros.
pub struct Matrix {
    numbers: Buffer,
    scales: Option<Floats>,
    bias: Option<Floats>,
    kind: Kind,
    outs: usize,
    width: usize,
}

impl Matrix {
    /// Rows.
    pub fn outs(&self) -> usize {
        self.outs
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How its numbers are kept.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    fn spans(&self) -> usize {
        self.width.div_ceil(SPAN)
    }
}

/// Weights of a norm.
pub struct Norm {
    weight: Floats,
    bias: Option<Floats>,
}

/// Heads of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Of the queries (H).
    pub queries: usize,
    /// Of keys and values (K); divides `queries`.
    pub kv: usize,
    /// Numbers in a head (D).
    pub width: usize,
}

impl Heads {
    /// Numbers in a row of queries, keys and values.
    fn row(&self) -> usize {
        (self.queries + 2 * self.kv) * self.width
    }
}

/// Keys and values of the positions that a sequence has seen: [layers, 2, K, room, D].
pub struct Seen {
    buffer: Buffer,
    layers: usize,
    kv: usize,
    width: usize,
    room: usize,
}

impl Seen {
    fn new(driver: &Arc<Driver>, layers: usize, (kv, width): (usize, usize), room: usize) -> Result<Seen> {
        Ok(Seen { buffer: Buffer::of(driver, &[8, layers, kv, room, width])?, layers, kv, width, room })
    }

    /// Its first `positions`, with room for `room`.
    ///
    /// # Errors
    ///
    /// [`GpuError::Size`] if it has not so many, or they need more room; [`GpuError::Memory`].
    pub fn beginning(&self, positions: usize, room: usize) -> Result<Seen> {
        need("positions", positions <= self.room.min(room))?;
        let driver = &self.buffer.driver;
        let copy = Seen::new(driver, self.layers, (self.kv, self.width), room)?;
        let row = 4 * self.width;
        for block in (0..2 * self.layers * self.kv).filter(|_| positions > 0) {
            let (from, to) = ((block * self.room * row) as u64, (block * room * row) as u64);
            driver.copy(self.buffer.at + from, copy.buffer.at + to, positions * row)?;
        }
        Ok(copy)
    }
}

/// For each of some rows where its sequence has what it has seen, and its position there.
pub struct Table<'c> {
    /// 16 bytes for each.
    buffer: &'c Buffer,
    /// Each row's position.
    at: Vec<usize>,
    layers: usize,
    heads: Heads,
    _seen: PhantomData<&'c mut Seen>,
}

impl Table<'_> {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.at.len()
    }

    fn layer(&self, layer: usize) -> Result<Argument> {
        need("a layer", layer < self.layers)?;
        Ok(Argument::U32(number(layer)?))
    }
}

/// What scores are computed in.
pub struct Scores {
    scores: Floats,
    /// For each row and head the largest of each part of its scores.
    most: Floats,
    shares: Floats,
}

/// Rows of x as a matrix meets them: filled up to a multiple of [`SPAN`].
#[derive(Clone, Copy)]
pub struct Given<'x> {
    numbers: &'x Floats,
    /// Numbers in a row.
    width: usize,
    /// Rows, if they are integers with scales.
    integers: Option<usize>,
}

impl Gpu {
    /// The first card of this machine.
    ///
    /// # Errors
    ///
    /// [`GpuError::None`] if there is none, [`GpuError::Old`], and what the driver says.
    pub fn find() -> Result<Gpu> {
        Gpu::open(Path::new(LIBRARY))
    }

    /// The first card of a driver.
    ///
    /// # Errors
    ///
    /// As [`find`](Gpu::find).
    pub fn open(library: &Path) -> Result<Gpu> {
        let ptx = CStr::from_bytes_with_nul(PTX.as_bytes()).map_err(|_| GpuError::Size("the kernels hold a zero"))?;
        let (driver, name) = Driver::open(library, ptx)?;
        let products = |of: [&CStr; 4]| {
            Ok([driver.kernel(of[0])?, driver.kernel(of[1])?, driver.kernel(of[2])?, driver.kernel(of[3])?])
        };
        Ok(Gpu(Arc::new(Card {
            normalise: driver.kernel(c"normalise")?,
            integers: driver.kernel(c"integers")?,
            heads: driver.kernel(c"heads")?,
            scores: driver.kernel(c"scores")?,
            largest: driver.kernel(c"largest")?,
            weigh: driver.kernel(c"weigh")?,
            shared: driver.kernel(c"shared")?,
            values: driver.kernel(c"values")?,
            activate: driver.kernel(c"activate")?,
            products: [
                products([c"product_f32_1", c"product_f32_4", c"product_f32_8", c"product_f32_many"])?,
                products([c"product_f16_1", c"product_f16_4", c"product_f16_8", c"product_f16_many"])?,
                products([c"product_bf16_1", c"product_bf16_4", c"product_bf16_8", c"product_bf16_many"])?,
                products([c"product_int8_1", c"product_int8_4", c"product_int8_8", c"product_int8_many"])?,
            ],
            driver,
            name,
        })))
    }

    /// What the card is called.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Bytes of its memory that are free, and all that it has.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.0.driver.memory().map(|(free, all)| (free as u64, all as u64))
    }

    /// Room for so many numbers, all 0.
    ///
    /// # Errors
    ///
    /// [`GpuError::Memory`], and what the driver says.
    pub fn zeros(&self, count: usize) -> Result<Floats> {
        let buffer = Buffer::of(&self.0.driver, &[4, count])?;
        if count > 0 {
            self.0.driver.clear(buffer.at, 4 * count)?;
        }
        Ok(Floats(buffer))
    }

    /// These numbers.
    ///
    /// # Errors
    ///
    /// As [`zeros`](Gpu::zeros).
    pub fn floats(&self, numbers: &[f32]) -> Result<Floats> {
        let mut floats = Floats(Buffer::new(&self.0.driver, 4 * numbers.len())?);
        floats.write(numbers)?;
        Ok(floats)
    }

    /// Weights of a norm.
    ///
    /// # Errors
    ///
    /// As [`zeros`](Gpu::zeros).
    pub fn norm(&self, weight: &[f32], bias: Option<&[f32]>) -> Result<Norm> {
        let bias = bias.map(|bias| self.floats(bias)).transpose()?;
        need("a norm's bias", bias.as_ref().is_none_or(|bias| bias.len() == weight.len()))?;
        Ok(Norm { weight: self.floats(weight)?, bias })
    }

    /// A matrix whose little-endian numbers lie in `bytes`, row by row; with a scale for each row where they are integers, and a bias.
    ///
    /// # Errors
    ///
    /// [`GpuError::Size`] if these are no whole rows, or others than scales and bias are for; else as [`zeros`](Gpu::zeros).
    pub fn matrix(
        &self,
        kind: Kind,
        (bytes, width): (&[u8], usize),
        scales: Option<&[f32]>,
        bias: Option<&[f32]>,
    ) -> Result<Matrix> {
        let size = kind.bytes() * width;
        need("rows of a matrix", size > 0 && !bytes.is_empty() && bytes.len().is_multiple_of(size))?;
        let outs = bytes.len() / size;
        need("scales of integers", scales.map(<[f32]>::len) == (kind == Kind::Int8).then_some(outs))?;
        need("a matrix' bias", bias.is_none_or(|bias| bias.len() == outs))?;
        let full = kind.bytes() * width.next_multiple_of(SPAN);
        let mut numbers = Buffer::of(&self.0.driver, &[full, outs])?;
        if full == size {
            numbers.write(0, bytes)?;
        } else {
            let mut filled = vec![0; full * outs];
            filled
                .chunks_exact_mut(full)
                .zip(bytes.chunks_exact(size))
                .for_each(|(to, row)| to[..size].copy_from_slice(row));
            numbers.write(0, &filled)?;
        }
        let scales = scales.map(|scales| self.floats(scales)).transpose()?;
        let bias = bias.map(|bias| self.floats(bias)).transpose()?;
        Ok(Matrix { numbers, scales, bias, kind, outs, width })
    }

    /// Room for keys and values of `room` positions in so many layers.
    ///
    /// # Errors
    ///
    /// As [`zeros`](Gpu::zeros).
    pub fn seen(&self, layers: usize, heads: &Heads, room: usize) -> Result<Seen> {
        Seen::new(&self.0.driver, layers, (heads.kv, heads.width), room)
    }

    /// The rows of some sequences, one after another, told to the card in `room`: of each what it has seen, how many positions that were, and how many rows follow them.
    ///
    /// # Errors
    ///
    /// [`GpuError::Size`] if one has no room for them, or they are not all of the same layers and heads; else as [`zeros`](Gpu::zeros).
    pub fn table<'c>(
        &self,
        heads: Heads,
        layers: usize,
        room: &'c mut Option<Floats>,
        parts: impl Iterator<Item = (&'c mut Seen, usize, usize)>,
    ) -> Result<Table<'c>> {
        need("heads", heads.queries > 0 && heads.kv > 0 && heads.queries.is_multiple_of(heads.kv) && heads.width > 0)?;
        let (mut at, mut bytes) = (Vec::new(), Vec::new());
        for (seen, past, rows) in parts {
            self.own([&seen.buffer])?;
            need("room for positions", past.checked_add(rows).is_some_and(|all| all <= seen.room))?;
            need("layers of a cache", (seen.layers, seen.kv, seen.width) == (layers, heads.kv, heads.width))?;
            for position in past..past + rows {
                bytes.extend(seen.buffer.at.to_le_bytes());
                bytes.extend(number(seen.room)?.to_le_bytes());
                bytes.extend(number(position)?.to_le_bytes());
                at.push(position);
            }
        }
        if room.as_ref().is_none_or(|room| room.0.bytes < bytes.len()) {
            *room = Some(self.zeros(bytes.len().next_power_of_two() / 4)?);
        }
        let Some(Floats(buffer)) = room else { return Err(GpuError::Memory) };
        self.own([&*buffer])?;
        buffer.write(0, &bytes)?;
        Ok(Table { buffer, at, layers, heads, _seen: PhantomData })
    }

    /// LayerNorm (`layer`) or RMSNorm of the first `rows` of x [rows, C], into rows of y that are filled up to a multiple of [`SPAN`].
    ///
    /// # Errors
    ///
    /// [`GpuError::Size`] if they are not there, and what the driver says; so have all that follow.
    pub fn normalise(
        &self,
        (norm, layer, epsilon): (&Norm, bool, f32),
        x: &Floats,
        y: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        self.own([&norm.weight.0, &x.0, &y.0].into_iter().chain(norm.bias.as_ref().map(|bias| &bias.0)))?;
        let width = norm.weight.len();
        let stride = width.next_multiple_of(SPAN);
        need("rows of a norm", rows > 0 && width > 0 && x.len() / width >= rows && y.len() / stride >= rows)?;
        let arguments = [
            x.at(0),
            norm.weight.at(0),
            optional(norm.bias.as_ref()),
            y.at(0),
            Argument::U32(number(width)?),
            Argument::U32(number(stride)?),
            Argument::F32(epsilon),
            Argument::U32(layer.into()),
        ];
        // SAFETY: x and y have the rows, and the weights a number for each column.
        unsafe { self.0.driver.launch(self.0.normalise, [number(rows)?, 1, 1], BLOCK as u32, &arguments) }
    }

    /// The first `rows` of x, each of `width` numbers filled up to a multiple of [`SPAN`], as matrices of this kind meet them: integers are made in `work`.
    ///
    /// # Errors
    ///
    /// As [`normalise`](Gpu::normalise).
    pub fn given<'x>(
        &self,
        kind: Kind,
        x: &'x Floats,
        (rows, width): (usize, usize),
        work: &'x mut Floats,
    ) -> Result<Given<'x>> {
        if kind != Kind::Int8 {
            return Ok(Given { numbers: x, width, integers: None });
        }
        self.own([&x.0, &work.0])?;
        let count = rows * width.div_ceil(SPAN);
        need("rows for integers", count > 0 && x.len() / SPAN >= count)?;
        need("room for integers", work.len() / (SPAN / 2 + 1) >= count)?;
        let arguments = [x.at(0), work.at(0), work.at(count * SPAN / 2), Argument::U32(number(count)?)];
        // SAFETY: x has so many spans, and `work` half as many words, and a scale for each.
        unsafe { self.groups(self.0.integers, count, &arguments)? };
        Ok(Given { numbers: work, width, integers: Some(rows) })
    }

    /// x [rows, width] times the transpose of a matrix: into y [rows, stride] from the column `offset` on, or added to what is there.
    ///
    /// # Errors
    ///
    /// As [`normalise`](Gpu::normalise).
    pub fn product(
        &self,
        matrix: &Matrix,
        x: Given<'_>,
        (y, stride, offset): (&mut Floats, usize, usize),
        rows: usize,
        add: bool,
    ) -> Result<()> {
        let (outs, spans) = (matrix.outs, matrix.spans());
        self.own([&matrix.numbers, &x.numbers.0, &y.0])?;
        need("columns of a product", rows > 0 && offset + outs <= stride && y.len() / stride >= rows)?;
        need("the width of a product", x.width == matrix.width)?;
        need("the kind of a product", x.integers.is_some() == (matrix.kind == Kind::Int8))?;
        // Integers are as many rows as were made, and their scales stand behind all of them.
        let (whole, scales) = match x.integers {
            Some(made) => (
                made == rows && x.numbers.len() / (spans * (SPAN / 2 + 1)) >= rows,
                x.numbers.at(rows * spans * SPAN / 2),
            ),
            None => (x.numbers.len() / (spans * SPAN) >= rows, Argument::Address(0)),
        };
        need("rows of a product", whole)?;
        // How many rows and columns a group makes, and how many groups of a block make the same columns: as kernels.cu says.
        let (which, each, columns, bands, threads) = match rows {
            1 => (0, 1, 1, 1, 64),
            2..=4 => (1, 4, 1, 1, 64),
            5..=8 => (2, 8, 1, 1, 64),
            _ => (3, 8, 4, 4, 256),
        };
        let blocks =
            [number(outs.div_ceil(columns * threads / LANES / bands))?, number(rows.div_ceil(each * bands))?, 1];
        need("rows of a product", blocks[1] as usize <= MAX_BLOCKS)?;
        let arguments = [
            x.numbers.at(0),
            scales,
            Argument::Address(matrix.numbers.at),
            optional(matrix.scales.as_ref()),
            optional(matrix.bias.as_ref()),
            y.at(0),
            Argument::U32(number(rows)?),
            Argument::U32(number(outs)?),
            Argument::U32(number(spans)?),
            Argument::U32(number(stride)?),
            Argument::U32(number(offset)?),
            Argument::U32(add.into()),
        ];
        let kernel = self.0.products[matrix.kind as usize][which];
        // SAFETY: x and y have the rows, the matrix `outs` of so many spans, with a scale and a bias for each where it has them.
        unsafe { self.0.driver.launch(kernel, blocks, threads as u32, &arguments) }
    }

    /// Norms of heads of qkv [rows, H + 2 K, D], turns of queries and keys by `turns` (cosines and sines [rows, D / 2]), and keys and values to where
    /// the rows' sequences keep those of a layer.
    ///
    /// # Errors
    ///
    /// As [`normalise`](Gpu::normalise).
    pub fn heads(
        &self,
        qkv: &mut Floats,
        (norms, epsilon): (Option<(&Norm, &Norm)>, f32),
        turns: Option<&Floats>,
        (table, layer): (&mut Table<'_>, usize),
    ) -> Result<()> {
        let (heads, rows) = (table.heads, table.rows());
        let more = norms.into_iter().flat_map(|(queries, keys)| [queries, keys]).map(|norm| &norm.weight.0);
        self.own([&qkv.0, table.buffer].into_iter().chain(more).chain(turns.map(|turns| &turns.0)))?;
        need("rows of heads", rows > 0 && qkv.len() / heads.row() >= rows)?;
        need(
            "norms of heads",
            norms.is_none_or(|(q, k)| q.weight.len() == heads.width && k.weight.len() == heads.width),
        )?;
        need("turns", turns.is_none_or(|turns| turns.len() >= rows * (heads.width / 2) * 2))?;
        let all = rows * (heads.queries + 2 * heads.kv);
        let arguments = [
            qkv.at(0),
            optional(norms.map(|(queries, _)| &queries.weight)),
            optional(norms.map(|(_, keys)| &keys.weight)),
            Argument::F32(epsilon),
            optional(turns),
            Argument::Address(table.buffer.at),
            Argument::U32(number(rows)?),
            Argument::U32(number(heads.queries)?),
            Argument::U32(number(heads.kv)?),
            Argument::U32(number(heads.width)?),
            table.layer(layer)?,
        ];
        // SAFETY: qkv has the rows, norms and turns a number for each place, and the table's sequences, which it borrows, room at each row's position.
        unsafe { self.groups(self.0.heads, all, &arguments) }
    }

    /// Attention of qkv's queries over what the rows' sequences have seen in a layer, up to each row: into y [rows, H D], rows filled up to a multiple of
    /// [`SPAN`].
    ///
    /// # Errors
    ///
    /// As [`normalise`](Gpu::normalise).
    pub fn attention(
        &self,
        qkv: &Floats,
        y: &mut Floats,
        (table, layer): (&Table<'_>, usize),
        room: &mut Option<Scores>,
    ) -> Result<()> {
        self.attention_within(SCORES, qkv, y, (table, layer), room)
    }

    /// The same with scores in so many bytes at once.
    fn attention_within(
        &self,
        bytes: usize,
        qkv: &Floats,
        y: &mut Floats,
        (table, layer): (&Table<'_>, usize),
        room: &mut Option<Scores>,
    ) -> Result<()> {
        let (heads, rows) = (table.heads, table.rows());
        self.own([&qkv.0, &y.0, table.buffer])?;
        let row = heads.queries * heads.width;
        let stride = row.next_multiple_of(SPAN);
        need("rows of attention", rows > 0 && qkv.len() / heads.row() >= rows && y.len() / stride >= rows)?;
        need("heads", heads.queries <= MAX_BLOCKS)?;
        let [queries, kv, width] = [heads.queries, heads.kv, heads.width].map(number);
        let (queries, kv, width) = (Argument::U32(queries?), Argument::U32(kv?), Argument::U32(width?));
        let longest = table.at.iter().max().map_or(0, |at| at + 1);
        let piece = (bytes / 4 / (heads.queries * longest)).clamp(1, rows.min(MAX_BLOCKS));
        let (scores, shares) = (piece * heads.queries * longest, piece * heads.queries);
        let had = room.as_ref().map_or((0, 0), |room| (room.scores.len(), room.shares.len()));
        if had.0 < scores || had.1 < shares {
            *room = None; // Before there is more: both may not fit.
            let (scores, shares) = ((2 * scores).min(bytes / 4).max(scores).max(had.0), shares.max(4096).max(had.1));
            let most = self.zeros(shares * BLOCK / LANES)?;
            *room = Some(Scores { scores: self.zeros(scores)?, most, shares: self.zeros(shares)? });
        }
        let Some(room) = room else { return Err(GpuError::Memory) };
        self.own([&room.scores.0])?;
        for from in (0..rows).step_by(piece) {
            let count = piece.min(rows - from);
            let longest = table.at[from..from + count].iter().max().map_or(0, |at| at + 1);
            let stride_of_scores = Argument::U32(number(longest)?);
            let own = Argument::Address(table.buffer.at + 16 * from as u64);
            let blocks = [number(longest.div_ceil(BLOCK / LANES))?, number(heads.queries)?, number(count)?];
            let arguments = [
                qkv.at(from * heads.row()),
                own,
                room.scores.at(0),
                queries,
                kv,
                width,
                table.layer(layer)?,
                stride_of_scores,
            ];
            // SAFETY: qkv has the rows, the table's sequences have seen each row's positions, and there is room for as many scores in each row and head.
            unsafe { self.0.driver.launch(self.0.scores, blocks, BLOCK as u32, &arguments)? };
            let (scores, most, shares) = (room.scores.at(0), room.most.at(0), room.shares.at(0));
            let (count_of, scale) = (Argument::U32(number(count)?), Argument::F32(1.0 / (heads.width as f32).sqrt()));
            let each = [number(heads.queries)?, number(count)?, 1];
            let arguments = [own, scores, most, queries, stride_of_scores];
            // SAFETY: the same scores, and room for the largest of each part of a row's and head's.
            unsafe { self.0.driver.launch(self.0.largest, each, BLOCK as u32, &arguments)? };
            let arguments = [own, scores, most, queries, stride_of_scores, scale];
            let each = [number(longest.div_ceil(BLOCK))?, number(heads.queries)?, number(count)?];
            // SAFETY: the same.
            unsafe { self.0.driver.launch(self.0.weigh, each, BLOCK as u32, &arguments)? };
            let arguments = [own, scores, shares, count_of, queries, stride_of_scores];
            // SAFETY: the same scores, and room for a share of each row and head.
            unsafe { self.groups(self.0.shared, count * heads.queries, &arguments)? };
            let arguments = [
                own,
                scores,
                shares,
                y.at(from * stride),
                count_of,
                queries,
                kv,
                width,
                table.layer(layer)?,
                stride_of_scores,
                Argument::U32(number(stride)?),
            ];
            // SAFETY: the same, and y has the rows.
            unsafe { self.threads(self.0.values, count * row, &arguments)? };
        }
        Ok(())
    }

    /// GELU, or SwiGLU (`gated`) of rows that hold gates and then what they gate: the first `rows` of `up` into y [rows, width], rows filled up to a
    /// multiple of [`SPAN`].
    ///
    /// # Errors
    ///
    /// As [`normalise`](Gpu::normalise).
    pub fn activate(&self, gated: bool, up: &Floats, y: &mut Floats, rows: usize, width: usize) -> Result<()> {
        self.own([&up.0, &y.0])?;
        let (stride, from) = (width.next_multiple_of(SPAN), if gated { 2 * width } else { width });
        need("rows to activate", rows > 0 && width > 0 && up.len() / from >= rows && y.len() / stride >= rows)?;
        let [count, width_of, stride] = [rows, width, stride].map(number);
        let numbers =
            [Argument::U32(count?), Argument::U32(width_of?), Argument::U32(stride?), Argument::U32(gated.into())];
        let arguments = [up.at(0), y.at(0), numbers[0], numbers[1], numbers[2], numbers[3]];
        // SAFETY: both have the rows.
        unsafe { self.threads(self.0.activate, rows * width, &arguments) }
    }

    /// Whether these are in this card's memory, and everything happens to them in its order.
    fn own<'b>(&self, buffers: impl IntoIterator<Item = &'b Buffer>) -> Result<()> {
        need("another card's memory", buffers.into_iter().all(|buffer| Arc::ptr_eq(&buffer.driver, &self.0.driver)))
    }

    /// Starts a kernel with so many groups.
    ///
    /// # Safety
    ///
    /// As [`Driver::launch`].
    unsafe fn groups(&self, kernel: Kernel, groups: usize, arguments: &[Argument]) -> Result<()> {
        // The kernels count threads in 32 bits.
        need("groups", groups.next_multiple_of(BLOCK) <= u32::MAX as usize / LANES)?;
        let blocks = [number(groups.div_ceil(BLOCK / LANES))?, 1, 1];
        // SAFETY: the caller answers.
        unsafe { self.0.driver.launch(kernel, blocks, BLOCK as u32, arguments) }
    }

    /// The same with so many threads.
    ///
    /// # Safety
    ///
    /// As [`Driver::launch`].
    unsafe fn threads(&self, kernel: Kernel, threads: usize, arguments: &[Argument]) -> Result<()> {
        need("threads", threads <= u32::MAX as usize - BLOCK)?;
        // SAFETY: the caller answers.
        unsafe { self.0.driver.launch(kernel, [number(threads.div_ceil(BLOCK))?, 1, 1], BLOCK as u32, arguments) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    /// A driver without a card: what `tests/driver.cpp` says.
    fn card() -> Gpu {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("driver.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/driver.cpp");
        let flags = ["-O2", "-march=native", "-std=c++17", "-ffp-contract=off", "-w", "-shared", "-fPIC", source, "-o"];
        assert!(Command::new("c++").args(flags).arg(&library).status().unwrap().success());
        Gpu::open(&library).unwrap()
    }

    #[test]
    fn attention_is_the_same_whether_its_scores_are_computed_at_once_or_in_pieces() {
        let card = card();
        let heads = Heads { queries: 4, kv: 2, width: 8 };
        let rows = 150;
        let numbers: Vec<f32> = (0..rows * heads.row()).map(|i| (i * 37 % 101) as f32 * 0.03 - 1.5).collect();
        let compute = |bytes| {
            let (mut qkv, mut y) = (card.floats(&numbers).unwrap(), card.zeros(rows * SPAN).unwrap());
            let (mut seen, mut room, mut scores) = (card.seen(1, &heads, rows).unwrap(), None, None);
            let mut table = card.table(heads, 1, &mut room, [(&mut seen, 0, rows)].into_iter()).unwrap();
            card.heads(&mut qkv, (None, 1e-5), None, (&mut table, 0)).unwrap();
            card.attention_within(bytes, &qkv, &mut y, (&table, 0), &mut scores).unwrap();
            y.read(rows * SPAN).unwrap()
        };
        let whole = compute(SCORES);
        assert!(whole.iter().all(|y| y.is_finite()) && whole[..32].iter().any(|y| *y != 0.0));
        for bytes in [0, 4 * 4 * 150 * 7, 4 * 4 * 150 * 149] {
            assert!(compute(bytes) == whole, "{bytes}");
        }
    }

    #[test]
    fn what_does_not_fit_or_is_another_cards_is_not_computed() {
        let (one, other) = (card(), card());
        let (norm, x) = (one.norm(&[1.0; 64], None).unwrap(), one.floats(&[1.0; 128]).unwrap());
        let rms = |gpu: &Gpu, x: &Floats, y: &mut Floats, rows| gpu.normalise((&norm, false, 0.0), x, y, rows).is_ok();
        let (mut y, mut theirs) = (one.zeros(128).unwrap(), other.zeros(128).unwrap());
        assert!(rms(&one, &x, &mut y, 2) && y.read(128).unwrap() == [1.0; 128]);
        assert!(!rms(&one, &x, &mut y, 3) && !rms(&one, &x, &mut y, 0), "more rows than there are, or none");
        assert!(!rms(&one, &x, &mut theirs, 2) && !rms(&other, &x, &mut y, 2), "another card's");
        let matrix = |kind, bytes: &[u8], width, scales| one.matrix(kind, (bytes, width), scales, None);
        assert!(matrix(Kind::F32, &[0; 10], 2, None).is_err() && matrix(Kind::Int8, &[0; 10], 2, None).is_err());
        let ints = matrix(Kind::Int8, &[1; 128], 64, Some(&[1.0, 2.0])).unwrap();
        let mut work = one.zeros(2 * 33).unwrap();
        let given = one.given(Kind::Int8, &x, (2, 64), &mut work).unwrap();
        assert!(one.product(&ints, given, (&mut y, 2, 0), 1, false).is_err(), "integers of other rows");
        assert!(one.product(&ints, given, (&mut y, 2, 1), 2, false).is_err(), "more columns than there are");
        one.product(&ints, given, (&mut y, 2, 0), 2, false).unwrap();
        let products = y.read(4).unwrap();
        assert!(
            products.iter().zip([64.0, 128.0, 64.0, 128.0]).all(|(is, right)| (is - right).abs() < 0.01),
            "{products:?}"
        );
        assert!(one.given(Kind::Int8, &x, (3, 64), &mut work).is_err());
        let heads = Heads { queries: 1, kv: 1, width: 4 };
        let (mut seen, mut room) = (one.seen(1, &heads, 3).unwrap(), None);
        assert!(one.table(heads, 1, &mut room, [(&mut seen, 2, 2)].into_iter()).is_err(), "no room");
        assert!(one.table(heads, 2, &mut room, [(&mut seen, 0, 2)].into_iter()).is_err(), "other layers");
        assert!(other.table(heads, 1, &mut None, [(&mut seen, 0, 2)].into_iter()).is_err(), "another card's");
        assert!(matches!(one.seen(usize::MAX, &heads, 3), Err(GpuError::Memory)));
        assert!(seen.beginning(4, 9).is_err());
    }

    #[test]
    fn a_machine_without_a_driver_has_no_card() {
        assert!(matches!(Gpu::open(Path::new("libnothing.so.1")), Err(GpuError::None)));
        let library = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Gpu::open(library.path()), Err(GpuError::None)));
    }

    #[test]
    fn the_kernels_are_those_of_their_source() {
        let source = crc32fast::hash(include_bytes!("kernels.cu"));
        let head = PTX.lines().next().unwrap_or_default();
        assert!(
            head.ends_with(&format!("{source:08x}")),
            "run scripts/ptx: kernels.ptx is of another kernels.cu ({head})"
        );
    }

    #[test]
    fn every_operation_of_the_kernels_rounds_once_and_as_ieee_754_says() {
        for line in PTX.lines().map(str::trim).filter(|line| line.contains(".f32")) {
            let name = line.split_ascii_whitespace().next().unwrap_or_default();
            let exact = ["ld.", "st.", "mov.", "setp.", "selp.", "neg.", "max.", "min.", "abs."];
            let rounds = [
                "add.rn.f32",
                "sub.rn.f32",
                "mul.rn.f32",
                "div.rn.f32",
                "rcp.rn.f32",
                "sqrt.rn.f32",
                "fma.rn.f32",
                "cvt.rn.f32.s32",
                "cvt.rn.f32.u32",
            ];
            let predicate = name.starts_with('@');
            let name = if predicate { line.split_ascii_whitespace().nth(1).unwrap_or_default() } else { name };
            let known =
                name.starts_with('.') || exact.iter().any(|start| name.starts_with(start)) || rounds.contains(&name);
            assert!(known, "{line}");
        }
    }
}
