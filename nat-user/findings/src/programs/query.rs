//! The programs that are attached by links to a side of an interface. It uses `bpf(2)` directly: a
//! library would also query their names, which needs CAP_SYS_ADMIN, and natbpf's service lacks
//! that.

use aya::programs::TcAttachType;

/// `enum bpf_cmd` and `enum bpf_attach_type` of `linux/bpf.h`.
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// `BPF_MPROG_MAX` of `include/linux/bpf_mprog.h`.
const PROGRAMS_MAX: usize = 64;

/// The part of `union bpf_attr` for `BPF_PROG_QUERY`; unused fields are null.
#[repr(C)]
struct Query {
    interface: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: *mut u32,
    count: u32,
    _padding: u32,
    program_attach_flags: u64,
    links: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The programs' numbers, in the order in which they run. None if the kernel does not report them.
pub(super) fn attached(interface: u32, side: TcAttachType) -> Vec<u32> {
    let mut programs = vec![0; PROGRAMS_MAX];
    let mut query = Query {
        interface,
        attach_type: match side {
            TcAttachType::Ingress => BPF_TCX_INGRESS,
            _ => BPF_TCX_EGRESS,
        },
        query_flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr(),
        count: PROGRAMS_MAX as u32,
        _padding: 0,
        program_attach_flags: 0,
        links: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the attribute is as long as said; its pointer leads to room for `count` numbers,
    // which lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    if result != 0 {
        return Vec::new();
    }
    programs.truncate(query.count as usize);
    programs
}
