//! Models of other makers: a folder as Hugging Face writes it, with `config.json`, `tokenizer.json` and `*.safetensors`, in one file or many.
//!
//! The files are mapped: what is not asked for is never read, and what needs no other form is used where it lies. (Whoever shortens a file
//! under a running process takes the ground from under it, as with every mapped file.) What is kept in another type, or transposed, is read beside the
//! mapping, tensor by tensor.

mod config;
mod kept;
mod mapped;
pub mod random;
#[cfg(test)]
mod tests;

pub use config::Family;

use crate::{
    engine::{Block, Dtype, Linear, Matrix, NormWeights, Shape, Weights, pages::Room},
    error::{Result, TrainingError},
};
use ailo_protocol::{Hash, hash::Domain};
use bytes::Bytes;
pub use mapped::{floats, mapped};
use safetensors::SafeTensors;
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// A JSON file of a model, at most.
const MAX_JSON: u64 = 64 << 20;
/// Files of one model, at most.
const MAX_FILES: usize = 1024;

/// A model's folder.
pub struct Checkpoint {
    folder: PathBuf,
    family: Family,
    shape: Shape,
    /// Tokens that end a text.
    ends: Vec<u32>,
    files: Vec<(PathBuf, File, Bytes)>,
    tensors: HashMap<String, Stored>,
}

/// Where a tensor lies.
struct Stored {
    file: usize,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// What layers take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// What is read of the files.
    pub stored: u64,
    /// What the weights take in memory, in the types in which they are kept; mapped files count like memory.
    pub kept: u64,
    /// Of these, matrices that don't lie in the files as they are needed: they have been converted or transposed, into memory of their own.
    pub copied: u64,
}

/// What tensors are wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// They take the form for computing.
    Compute,
    /// Their hashes alone: they lie as in the files.
    Hash,
    /// What they would take: nothing is read.
    Weigh,
}

/// Layers that were loaded.
pub struct Loaded {
    /// The weights.
    pub weights: Weights,
    /// A hash of what each layer's tensors hold in the files; the first one's is that of the embedding, too, and the last one's that of the end.
    /// They do not depend on what else was loaded.
    pub hashes: Vec<Hash>,
}

impl Checkpoint {
    /// Reads the folder's `config.json` and the files' headers.
    ///
    /// # Errors
    ///
    /// [`TrainingError::File`] for what can't be read, [`TrainingError::Checkpoint`] for what is not understood.
    pub fn open(folder: &Path) -> Result<Checkpoint> {
        let (family, shape, mut ends) = config::read(&json(folder, "config.json")?)?;
        if folder.join("generation_config.json").exists() {
            ends = config::ends(&json(folder, "generation_config.json")?).unwrap_or(ends);
        }
        let (mut files, mut tensors) = (Vec::new(), HashMap::new());
        for path in names(folder)? {
            let (file, map) = mapped(&path)?;
            let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| bad(&path, &e))?;
            for (name, info) in metadata.tensors() {
                // Eight bytes say how long the header is.
                let (from, to) = (info.data_offsets.0 + header + 8, info.data_offsets.1 + header + 8);
                let stored =
                    Stored { file: files.len(), dtype: info.dtype, shape: info.shape.clone(), range: from..to };
                if tensors.insert(name.clone(), stored).is_some() {
                    return Err(TrainingError::Checkpoint(format!("{} has a second '{name}'", path.display())));
                }
            }
            files.push((path, file, map));
        }
        Ok(Checkpoint { folder: folder.into(), family, shape, ends, files, tensors })
    }

    /// The layers of `span`, their matrices in `dtype`, or as the files have them. The embedding comes with the first layer, the end with the last.
    /// `progress` is told bytes done and bytes in all.
    ///
    /// # Errors
    ///
    /// [`TrainingError::Checkpoint`] if a tensor is missing or of another form than the configuration says.
    pub fn load(&self, span: Range<usize>, dtype: Option<Dtype>, progress: &mut dyn FnMut(u64, u64)) -> Result<Loaded> {
        let total = self.size(&span, dtype)?.stored;
        Ok(self.read(span, dtype, (Use::Compute, total), progress)?.0)
    }

    /// What [`Checkpoint::load`] would read for `span`, and keep. Nothing is read.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::load`], as far as the files' headers tell.
    pub fn size(&self, span: &Range<usize>, dtype: Option<Dtype>) -> Result<Size> {
        Ok(self.read(span.clone(), dtype, (Use::Weigh, 0), &mut |_, _| ())?.1)
    }

    /// The hashes that [`Checkpoint::load`] gives of each layer alone. Nothing is kept: a model that no memory holds has them, too.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::load`].
    pub fn hashes(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Hash>> {
        let layers = (0..self.shape.layers).map(|layer| layer..layer + 1);
        let sizes = layers.clone().map(|layer| Ok(self.size(&layer, None)?.stored)).collect::<Result<Vec<u64>>>()?;
        let total = sizes.iter().sum();
        let (mut hashes, mut before) = (Vec::new(), 0);
        for (layer, size) in layers.zip(sizes) {
            let mut told = |done, _| progress(before + done, total);
            hashes.extend(self.read(layer, None, (Use::Hash, size), &mut told)?.0.hashes);
            before += size;
        }
        Ok(hashes)
    }

    /// `total`: bytes to be read of the files, for `progress`.
    fn read(
        &self,
        span: Range<usize>,
        dtype: Option<Dtype>,
        (wanted, total): (Use, u64),
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Loaded, Size)> {
        if span.is_empty() || span.end > self.shape.layers {
            let what = format!("{}..{} are no layers of a model of {}", span.start, span.end, self.shape.layers);
            return Err(TrainingError::Checkpoint(what));
        }
        let mut loader =
            Loader { of: self, dtype, wanted, hasher: BTreeMap::new(), size: Size::default(), total, progress };
        let mut embedding = None;
        let mut hashes = Vec::new();
        let mut weights = Weights { embedding: None, positions: None, blocks: Vec::new(), norm: None, head: None };
        let names = self.family.names();
        for layer in span.clone() {
            let name = |place: &str| format!("{}{place}", names.layer.replace("{}", &layer.to_string()));
            if layer == 0 {
                weights.embedding = Some(loader.weight(names.embedding, false)?);
                embedding = loader.hasher.get(names.embedding).copied();
                weights.positions = names.positions.map(|positions| loader.table(positions)).transpose()?;
            }
            weights.blocks.push(self.family.block(&mut loader, &self.shape, &name)?);
            if layer + 1 == self.shape.layers {
                weights.norm = Some(loader.norm(names.norm)?);
                weights.head = match (self.shape.tied, &weights.embedding) {
                    (true, Some(_)) => {
                        // It was read once, and counts here, too.
                        loader.hasher.extend(embedding.map(|hash| (names.embedding.to_string(), hash)));
                        None
                    }
                    (true, None) => Some(loader.weight(names.embedding, false)?),
                    (false, _) => Some(loader.weight(names.head, false)?),
                };
            }
            hashes.push(loader.layer_hash());
        }
        Ok((Loaded { weights, hashes }, loader.size))
    }

    /// The shape of the whole model.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The type of the first layer's largest matrix in the files.
    pub fn dtype(&self) -> Dtype {
        let layer = self.family.names().layer.replace("{}", "0");
        let first = self.tensors.iter().filter(|(name, _)| name.contains(&layer));
        match first.max_by_key(|(name, stored)| (stored.range.len(), *name)).map(|(_, stored)| stored.dtype) {
            Some(safetensors::Dtype::BF16) => Dtype::Bf16,
            Some(safetensors::Dtype::F16) => Dtype::F16,
            _ => Dtype::F32,
        }
    }

    /// Which family it is of.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Tokens that end a text.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// GPT-2's tensors have a prefix in some checkpoints.
    fn prefix(&self) -> &'static str {
        if self.family == Family::Gpt2 && self.tensors.contains_key("transformer.wte.weight") {
            "transformer."
        } else {
            ""
        }
    }

    fn find(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(&format!("{}{name}", self.prefix()))
    }
}

/// Reads tensors one after another.
struct Loader<'a> {
    of: &'a Checkpoint,
    dtype: Option<Dtype>,
    wanted: Use,
    /// Of what was read since the last layer's end.
    hasher: BTreeMap<String, Hash>,
    /// What it has come to.
    size: Size,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Loader<'_> {
    /// A tensor of two dimensions; `transposed`: it lies as [in, out].
    fn matrix(&mut self, name: &str, transposed: bool) -> Result<Matrix> {
        let stored =
            self.of.find(name).ok_or_else(|| TrainingError::Checkpoint(format!("the model has no '{name}'")))?;
        let dtype = match stored.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => {
                return Err(TrainingError::Checkpoint(format!(
                    "'{name}' holds {other:?}: F32, F16 or BF16 can be read"
                )));
            }
        };
        let width = match *stored.shape {
            [width] if width > 0 => width,
            [rows, width] if rows > 0 && width > 0 => width,
            _ => {
                return Err(TrainingError::Checkpoint(format!(
                    "'{name}' is no matrix: its shape is {:?}",
                    stored.shape
                )));
            }
        };
        let (path, file, map) = &self.of.files[stored.file];
        let as_it_is = !transposed && stored.shape.len() == 2 && self.dtype.is_none_or(|wanted| wanted == dtype);
        let in_place = as_it_is || self.wanted != Use::Compute;
        self.size.stored += stored.range.len() as u64;
        if !as_it_is && stored.shape.len() == 2 {
            let numbers = (stored.range.len() / dtype.bytes()) as u64;
            self.size.copied += numbers * self.dtype.unwrap_or(dtype).bytes() as u64;
        }
        let bytes = if in_place {
            map.slice(stored.range.clone())
        } else {
            let mut room = Room::of(stored.range.len());
            let failed = |source| TrainingError::File { action: "read", path: path.clone(), source };
            file.read_exact_at(room.as_mut(), stored.range.start as u64).map_err(failed)?;
            room.into()
        };
        if self.wanted != Use::Weigh {
            let hash = Hash::of_parts(Domain::Blob, &[format!("{dtype} {:?}", stored.shape).as_bytes(), &bytes]);
            self.hasher.insert(name.into(), hash);
            (self.progress)(self.size.stored, self.total);
        }
        let matrix = Matrix::new(dtype, bytes, width)?;
        Ok(if transposed && self.wanted == Use::Compute { matrix.transposed() } else { matrix })
    }

    /// The same in the type that is wanted.
    fn weight(&mut self, name: &str, transposed: bool) -> Result<Matrix> {
        let matrix = self.matrix(name, transposed)?;
        let dtype = self.dtype.unwrap_or(matrix.dtype());
        // As it will lie, whichever way it lies now.
        let outs = if transposed && self.wanted != Use::Compute { matrix.width() } else { matrix.outs() };
        self.size.kept += matrix.size_in(dtype, outs);
        Ok(if self.wanted == Use::Compute { matrix.to(dtype) } else { matrix })
    }

    /// A tensor of two dimensions of which rows are taken: it keeps its type.
    fn table(&mut self, name: &str) -> Result<Matrix> {
        let matrix = self.matrix(name, false)?;
        self.size.kept += matrix.size_in(matrix.dtype(), matrix.outs());
        Ok(matrix)
    }

    /// A tensor of one dimension.
    fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        let matrix = self.matrix(name, false)?;
        if matrix.outs() != 1 {
            return Err(TrainingError::Checkpoint(format!("'{name}' is no row of numbers")));
        }
        self.size.kept += 4 * matrix.width() as u64;
        Ok(if self.wanted == Use::Weigh { Vec::new() } else { matrix.row(0) })
    }

    /// A tensor that may be missing.
    fn optional(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        if self.of.find(name).is_some() { self.vector(name).map(Some) } else { Ok(None) }
    }

    /// Weight, and bias if there is one.
    fn norm(&mut self, name: &str) -> Result<NormWeights> {
        Ok(NormWeights {
            weight: self.vector(&format!("{name}.weight"))?,
            bias: self.optional(&format!("{name}.bias"))?,
        })
    }

    /// Linear maps that stand side by side; `biased`: each has a bias, else it may have one.
    fn linear(&mut self, names: &[String], transposed: bool, biased: bool) -> Result<Linear> {
        let one = |name: &String| {
            let (weight, bias) = (self.weight(&format!("{name}.weight"), transposed)?, format!("{name}.bias"));
            Ok((weight, if biased { Some(self.vector(&bias)?) } else { self.optional(&bias)? }))
        };
        Ok(Linear(names.iter().map(one).collect::<Result<_>>()?))
    }

    /// The hash of what was read since the last one.
    fn layer_hash(&mut self) -> Hash {
        let parts = std::mem::take(&mut self.hasher);
        let bytes: Vec<u8> = parts.iter().flat_map(|(name, hash)| [name.as_bytes(), &hash.0].concat()).collect();
        Hash::of(Domain::Blob, &bytes)
    }
}

/// The names of a family's tensors.
struct Names {
    embedding: &'static str,
    positions: Option<&'static str>,
    /// Before a place in a layer, whose number stands for the braces.
    layer: &'static str,
    norm: &'static str,
    head: &'static str,
}

impl Family {
    fn names(self) -> Names {
        match self {
            Family::Gpt2 => Names {
                embedding: "wte.weight",
                positions: Some("wpe.weight"),
                layer: "h.{}.",
                norm: "ln_f",
                head: "lm_head.weight",
            },
            Family::Llama | Family::Qwen2 | Family::Qwen3 => Names {
                embedding: "model.embed_tokens.weight",
                positions: None,
                layer: "model.layers.{}.",
                norm: "model.norm",
                head: "lm_head.weight",
            },
        }
    }

    /// A layer, whose tensors' names `name` makes of their places.
    fn block(self, loader: &mut Loader<'_>, shape: &Shape, name: &dyn Fn(&str) -> String) -> Result<Block> {
        if self == Family::Gpt2 {
            // Its maps lie as [in, out], queries, keys and values in one.
            let mut linear = |place: &str| loader.linear(&[name(place)], true, true);
            let (qkv, out) = (linear("attn.c_attn")?, linear("attn.c_proj")?);
            let (up, down) = (linear("mlp.c_fc")?, linear("mlp.c_proj")?);
            let (norm1, norm2) = (loader.norm(&name("ln_1"))?, loader.norm(&name("ln_2"))?);
            return Ok(Block { norm1, qkv, head_norms: None, out, norm2, up, down });
        }
        let mut linear = |places: &[&str], biased| {
            loader.linear(&places.iter().map(|place| name(place)).collect::<Vec<_>>(), false, biased)
        };
        let qkv = linear(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], self == Family::Qwen2)?;
        let (out, up) = (linear(&["self_attn.o_proj"], false)?, linear(&["mlp.gate_proj", "mlp.up_proj"], false)?);
        let down = linear(&["mlp.down_proj"], false)?;
        let norm1 = loader.norm(&name("input_layernorm"))?;
        let norm2 = loader.norm(&name("post_attention_layernorm"))?;
        let mut head = |place: &str| loader.norm(&name(place));
        let head_norms =
            if shape.head_norms { Some((head("self_attn.q_norm")?, head("self_attn.k_norm")?)) } else { None };
        Ok(Block { norm1, qkv, head_norms, out, norm2, up, down })
    }
}

/// The model's files: those that an index names, or all there are.
fn names(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names: Vec<String> = if folder.join("model.safetensors.index.json").exists() {
        let index = json(folder, "model.safetensors.index.json")?;
        let map = index.get("weight_map").and_then(serde_json::Value::as_object);
        let map = map.ok_or_else(|| TrainingError::Checkpoint("the index has no 'weight_map'".into()))?;
        map.values().filter_map(|name| name.as_str().map(str::to_string)).collect()
    } else {
        let failed = |source| TrainingError::File { action: "read", path: folder.into(), source };
        let entries = fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
        let names = entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".safetensors")).collect()
    };
    names.sort();
    names.dedup();
    if names.is_empty() || names.len() > MAX_FILES || names.iter().any(|name| name.contains(['/', '\\'])) {
        let what = format!("{} holds no weights that can be read: files named *.safetensors are", folder.display());
        return Err(TrainingError::Checkpoint(what));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// A JSON file of the folder.
fn json(folder: &Path, name: &str) -> Result<serde_json::Value> {
    let path = folder.join(name);
    let failed = |source| TrainingError::File { action: "read", path: path.clone(), source };
    if fs::metadata(&path).map_err(failed)?.len() > MAX_JSON {
        return Err(bad(&path, &"too large"));
    }
    serde_json::from_slice(&fs::read(&path).map_err(failed)?).map_err(|e| bad(&path, &e))
}

fn bad(path: &Path, why: &dyn std::fmt::Display) -> TrainingError {
    TrainingError::Checkpoint(format!("{} is not what it should be: {why}", path.display()))
}
