//! NVIDIA's driver, as far as it is needed here: found when the program runs, so that one binary runs with and without it.
//!
//! All that is unsafe for Rust is in this file and in `lib.rs`' launches: a driver's functions are declared as the CUDA Driver API has them, and called
//! with pointers that live as long as the call.

use crate::{GpuError, Result};
use libloading::Library;
use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
    ptr,
    sync::Arc,
};

/// What a driver says: 0 for success.
type Code = c_int;
/// Where something lies in a card's memory.
pub type Address = u64;
type Handle = *mut c_void;

/// CUDA_ERROR_OUT_OF_MEMORY.
const OUT_OF_MEMORY: Code = 2;
/// CUDA_ERROR_STUB_LIBRARY and CUDA_ERROR_NO_DEVICE.
const NO_CARD: [Code; 2] = [34, 100];
/// CUDA_ERROR_UNSUPPORTED_PTX_VERSION.
const NEWER_KERNELS: Code = 222;
/// Streams that do not wait for the stream that everybody shares: CU_STREAM_NON_BLOCKING.
const APART: c_uint = 1;

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// The driver's functions.
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> Code,)*
        }

        impl Functions {
            fn of(library: &Library) -> std::result::Result<Functions, libloading::Error> {
                Ok(Functions {
                    // SAFETY: the types are those of the CUDA Driver API for symbols of these names.
                    $($name: unsafe { *library.get::<unsafe extern "C" fn($($argument),*) -> Code>($symbol)? },)*
                })
            }
        }
    };
}

functions! {
    init = b"cuInit\0" (c_uint);
    device_count = b"cuDeviceGetCount\0" (*mut c_int);
    device = b"cuDeviceGet\0" (*mut c_int, c_int);
    device_name = b"cuDeviceGetName\0" (*mut c_char, c_int, c_int);
    retain = b"cuDevicePrimaryCtxRetain\0" (*mut Handle, c_int);
    set_current = b"cuCtxSetCurrent\0" (Handle);
    stream = b"cuStreamCreate\0" (*mut Handle, c_uint);
    synchronize = b"cuStreamSynchronize\0" (Handle);
    memory = b"cuMemGetInfo_v2\0" (*mut usize, *mut usize);
    allocate = b"cuMemAlloc_v2\0" (*mut Address, usize);
    free = b"cuMemFree_v2\0" (Address);
    set = b"cuMemsetD8Async\0" (Address, u8, usize, Handle);
    to_device = b"cuMemcpyHtoDAsync_v2\0" (Address, *const c_void, usize, Handle);
    to_host = b"cuMemcpyDtoHAsync_v2\0" (*mut c_void, Address, usize, Handle);
    within = b"cuMemcpyDtoDAsync_v2\0" (Address, Address, usize, Handle);
    load = b"cuModuleLoadData\0" (*mut Handle, *const c_void);
    function = b"cuModuleGetFunction\0" (*mut Handle, Handle, *const c_char);
    launch = b"cuLaunchKernel\0" (Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    error_name = b"cuGetErrorName\0" (Code, *mut *const c_char);
}

/// A card, its context, and a stream in which everything happens in order.
pub struct Driver {
    functions: Functions,
    context: Handle,
    stream: Handle,
    module: Handle,
}

// SAFETY: the Driver API may be called from any thread; each call here makes the context current first.
unsafe impl Send for Driver {}
// SAFETY: as above; the handles are never changed.
unsafe impl Sync for Driver {}

/// A kernel.
#[derive(Clone, Copy)]
pub struct Kernel(Handle);

// SAFETY: it is a name for the driver, which may be called from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// A place in the card's memory; 0 for none.
    Address(Address),
    /// A number.
    U32(u32),
    /// A number.
    F32(f32),
}

impl Driver {
    /// The first card of a driver, with kernels compiled for it, and its name.
    pub fn open(library: &Path, ptx: &CStr) -> Result<(Arc<Driver>, String)> {
        // SAFETY: the driver's library has no initialisation that asks anything of who loads it.
        let library = unsafe { Library::new(library) }.map_err(|_| GpuError::None)?;
        // Its functions are called as long as the program runs, and threads of its own may outlive anybody who uses it.
        let library: &'static Library = Box::leak(Box::new(library));
        let functions = Functions::of(library).map_err(|e| GpuError::Old(e.to_string()))?;
        let mut driver =
            Driver { functions, context: ptr::null_mut(), stream: ptr::null_mut(), module: ptr::null_mut() };
        let f = &driver.functions;
        let (mut count, mut device, mut name) = (0, 0, [0; 128]);
        // SAFETY: all pointers are to variables that outlive the calls; the name's length is told, less its end.
        unsafe {
            driver.check("start", (f.init)(0))?;
            driver.check("count its cards", (f.device_count)(&mut count))?;
            if count == 0 {
                return Err(GpuError::None);
            }
            driver.check("find its first card", (f.device)(&mut device, 0))?;
            driver.check("name its card", (f.device_name)(name.as_mut_ptr(), name.len() as c_int - 1, device))?;
            let mut context = ptr::null_mut();
            driver.check("open its card", (f.retain)(&mut context, device))?;
            driver.context = context;
        }
        driver.current()?;
        let f = &driver.functions;
        // SAFETY: as above; the kernels' text ends with a zero.
        unsafe {
            let (mut stream, mut module) = (ptr::null_mut(), ptr::null_mut());
            driver.check("make a stream", (f.stream)(&mut stream, APART))?;
            driver.check("compile kernels for its card", (f.load)(&mut module, ptx.as_ptr().cast()))?;
            (driver.stream, driver.module) = (stream, module);
        }
        // SAFETY: the last byte is zero whatever the driver wrote.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        Ok((Arc::new(driver), name))
    }

    fn check(&self, what: &'static str, code: Code) -> Result<()> {
        if code == 0 {
            return Ok(());
        } else if code == OUT_OF_MEMORY {
            return Err(GpuError::Memory);
        } else if NO_CARD.contains(&code) {
            return Err(GpuError::None);
        } else if code == NEWER_KERNELS {
            return Err(GpuError::Old("it does not know the kernels' version".into()));
        }
        let mut name = ptr::null();
        // SAFETY: the driver gives a text of its own, or none.
        let name = unsafe {
            (self.functions.error_name)(code, &mut name);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        };
        Err(GpuError::Driver { what, why: name.unwrap_or_else(|| format!("error {code}")) })
    }

    fn current(&self) -> Result<()> {
        // SAFETY: the context is this driver's.
        self.check("use its card", unsafe { (self.functions.set_current)(self.context) })
    }

    /// A kernel by its name, which ends with a zero.
    pub fn kernel(&self, name: &CStr) -> Result<Kernel> {
        self.current()?;
        let mut kernel = ptr::null_mut();
        // SAFETY: the module is this driver's, and the name a text.
        let code = unsafe { (self.functions.function)(&mut kernel, self.module, name.as_ptr()) };
        self.check("find a kernel", code).map(|()| Kernel(kernel))
    }

    /// Bytes that are free, and all that there are.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.current()?;
        let (mut free, mut all) = (0, 0);
        // SAFETY: both outlive the call.
        self.check("tell its memory", unsafe { (self.functions.memory)(&mut free, &mut all) })?;
        Ok((free, all))
    }

    pub fn allocate(&self, bytes: usize) -> Result<Address> {
        self.current()?;
        let mut address = 0;
        // SAFETY: it outlives the call.
        self.check("give memory", unsafe { (self.functions.allocate)(&mut address, bytes) })?;
        Ok(address)
    }

    /// Gives back what [`allocate`](Driver::allocate) gave, once everything that was begun is done.
    pub fn free(&self, address: Address) {
        // What fails now has failed before, where somebody was told; a card that is gone has no memory to give back.
        if self.current().and_then(|()| self.finish()).is_ok() {
            // SAFETY: it was allocated here, is freed once, and nothing that was begun uses it any more.
            unsafe { (self.functions.free)(address) };
        }
    }

    /// Fills memory with zeros. The range is to be one that was allocated.
    pub fn clear(&self, at: Address, bytes: usize) -> Result<()> {
        self.current()?;
        // SAFETY: the caller owns the range.
        self.check("clear memory", unsafe { (self.functions.set)(at, 0, bytes, self.stream) })
    }

    /// Writes to a range that was allocated, once everything that was begun before is done.
    pub fn write(&self, to: Address, from: &[u8]) -> Result<()> {
        self.current()?;
        // SAFETY: the caller owns the range; `from` lives until the stream is done, since the card may read it itself.
        let code = unsafe { (self.functions.to_device)(to, from.as_ptr().cast(), from.len(), self.stream) };
        let begun = self.check("write to its card", code);
        self.finish()?;
        begun
    }

    /// Reads a range that was allocated, once everything that was begun before is done.
    pub fn read(&self, from: Address, to: &mut [u8]) -> Result<()> {
        self.current()?;
        // SAFETY: the caller owns the range; `to` is not used before the stream is done.
        let code = unsafe { (self.functions.to_host)(to.as_mut_ptr().cast(), from, to.len(), self.stream) };
        let begun = self.check("read from its card", code);
        self.finish()?;
        begun
    }

    /// Copies between ranges that were allocated and do not overlap.
    pub fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.current()?;
        // SAFETY: the caller owns both.
        self.check("copy", unsafe { (self.functions.within)(to, from, bytes, self.stream) })
    }

    /// Waits until all that was begun is done.
    fn finish(&self) -> Result<()> {
        // SAFETY: the stream is this driver's.
        self.check("compute", unsafe { (self.functions.synchronize)(self.stream) })
    }

    /// Starts a kernel with so many blocks in each direction, of so many threads.
    ///
    /// # Safety
    ///
    /// The arguments are those that the kernel takes, and what they point to is as large as it reads and writes, until the stream is done.
    pub unsafe fn launch(&self, kernel: Kernel, blocks: [u32; 3], threads: u32, arguments: &[Argument]) -> Result<()> {
        self.current()?;
        // Each is read by its own size, from the beginning of a word.
        let mut words: Vec<u64> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Address(address) => *address,
                Argument::U32(number) => u64::from(*number),
                Argument::F32(number) => u64::from(number.to_bits()),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| ptr::from_mut(word).cast()).collect();
        let [x, y, z] = blocks;
        // SAFETY: the arguments are read before the call returns; for the rest the caller answers.
        let code = unsafe {
            (self.functions.launch)(
                kernel.0,
                x,
                y,
                z,
                threads,
                1,
                1,
                0,
                self.stream,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.check("start a kernel", code)
    }
}
