//! libisal2, where it is installed: found at run time, so that nothing needs it to build.

use std::ffi::{CStr, c_int, c_uchar, c_void};

type MakeMatrix = unsafe extern "C" fn(*mut c_uchar, c_int, c_int);
type MakeTables = unsafe extern "C" fn(c_int, c_int, *mut c_uchar, *mut c_uchar);
type Encode =
    unsafe extern "C" fn(c_int, c_int, c_int, *mut c_uchar, *mut *mut c_uchar, *mut *mut c_uchar);

/// ISA-L's code for `data + parity` shards.
pub struct IsaL {
    encode: Encode,
    tables: Vec<u8>,
    data: usize,
    parity: usize,
}

/// Bytes of the tables for each coefficient (isa-l/erasure_code.h, `ec_init_tables`).
const TABLE_BYTES: usize = 32;

impl IsaL {
    /// `None` where the library, or one of its functions, is not there.
    pub fn find(data: usize, parity: usize) -> Option<Self> {
        // SAFETY: the name ends with a zero; what the library does when it is loaded is its own affair.
        let library = unsafe { libc::dlopen(c"libisal.so.2".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return None;
        }
        let make_matrix = function(library, c"gf_gen_cauchy1_matrix")?;
        let make_tables = function(library, c"ec_init_tables")?;
        let encode = function(library, c"ec_encode_data")?;
        // SAFETY: these are the types of the functions in isa-l/erasure_code.h, and the library is never unloaded.
        let (make_matrix, make_tables, encode) = unsafe {
            (
                std::mem::transmute::<*mut c_void, MakeMatrix>(make_matrix),
                std::mem::transmute::<*mut c_void, MakeTables>(make_tables),
                std::mem::transmute::<*mut c_void, Encode>(encode),
            )
        };
        let mut matrix = vec![0; (data + parity) * data];
        let mut tables = vec![0; TABLE_BYTES * data * parity];
        // SAFETY: both have the lengths that the functions are said to fill and read.
        unsafe {
            make_matrix(matrix.as_mut_ptr(), (data + parity) as c_int, data as c_int);
            let rows = matrix.as_mut_ptr().add(data * data);
            make_tables(data as c_int, parity as c_int, rows, tables.as_mut_ptr());
        }
        Some(Self {
            encode,
            tables,
            data,
            parity,
        })
    }

    /// Makes the parity of `data`, which are as many shards of one length as the code has.
    pub fn encode(&mut self, data: &mut [&mut [u8]], parity: &mut [Vec<u8>]) {
        let length = data[0].len();
        assert!(data.len() == self.data && parity.len() == self.parity);
        assert!(data.iter().all(|shard| shard.len() == length));
        assert!(parity.iter().all(|shard| shard.len() == length));
        let mut sources: Vec<*mut u8> = data.iter_mut().map(|shard| shard.as_mut_ptr()).collect();
        let mut made: Vec<*mut u8> = parity.iter_mut().map(|shard| shard.as_mut_ptr()).collect();
        // SAFETY: as many pointers as the tables are for, each to as many bytes as is said.
        unsafe {
            (self.encode)(
                length as c_int,
                self.data as c_int,
                self.parity as c_int,
                self.tables.as_mut_ptr(),
                sources.as_mut_ptr(),
                made.as_mut_ptr(),
            );
        }
    }
}

fn function(library: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the library is loaded, and the name ends with a zero.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}
