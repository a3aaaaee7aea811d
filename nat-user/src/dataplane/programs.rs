//! The loaded programs: loading on first use, test runs, and what the kernel knows about them.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::MapInfo,
    programs::{CgroupSockAddr, ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use aya_log::EbpfLogger;
use nat_common::wire::address::Addr6;

use super::{
    family::{END_SESSIONS, EXPIRE_FRAGMENTS, name_of},
    object::{self, Sizes, XDP_PROGRAM, XDP_PROGRAM_6},
    pins::Pins,
    xdp,
};

/// Length of `struct bpf_insn`.
const INSTRUCTION_BYTES: u32 = 8;

/// Length of `struct __sk_buff` up to the end of what is set here, in bytes.
const SK_BUFF_LEN: usize = 44;
/// Offset of `ingress_ifindex` in `struct __sk_buff` (`include/uapi/linux/bpf.h`).
const SK_BUFF_INGRESS_IFINDEX: usize = 36;
/// Offset of `ifindex` in `struct __sk_buff`.
const SK_BUFF_IFINDEX: usize = 40;

/// More than an ICMP error has in bytes (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4) and its
/// link-layer header.
const LONGEST_REFUSAL: usize = 1280 + 14;

/// The result of a program for a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestRunOutput {
    /// The return code: -1 to pass, 2 to drop (`TC_ACT_UNSPEC`, `TC_ACT_SHOT`).
    pub verdict: i32,
    /// The packet after it.
    pub packet: Vec<u8>,
}

/// The loaded programs, to be attached.
pub struct Programs {
    pub(super) ebpf: Ebpf,
    /// Those of IPv6, if they were asked for.
    pub(super) ipv6: Option<Ebpf>,
}

impl Programs {
    /// A program by its name, loaded when it is first asked for: devices without Ethernet headers
    /// have separate programs, which most hosts never need.
    pub(super) fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        object::program(self.object_of(name), name)
    }

    /// The object that has a program.
    fn object_of(&mut self, name: &str) -> &mut Ebpf {
        match &mut self.ipv6 {
            Some(ipv6) if ipv6.program(name).is_some() => ipv6,
            _ => &mut self.ebpf,
        }
    }

    /// Loads the programs over the maps that are pinned, or over new ones of these sizes, and pins
    /// what is not pinned yet.
    pub(super) fn load(pins: &Pins, sizes: &Sizes, log_packets: bool) -> Result<Self> {
        let mut ebpf = object::load(pins, sizes, log_packets)?;
        for name in [END_SESSIONS, EXPIRE_FRAGMENTS] {
            object::pin_program(&mut ebpf, pins, name)?;
        }
        let mut programs = Self { ebpf, ipv6: None };
        if sizes.sessions_ipv6.is_some() {
            programs.add_ipv6(pins, sizes, log_packets)?;
        }
        Ok(programs)
    }

    /// Adds the programs of IPv6, and pins what the daemon needs of them, with their maps.
    pub(super) fn add_ipv6(&mut self, pins: &Pins, sizes: &Sizes, log_packets: bool) -> Result<()> {
        let mut ipv6 = object::load_ipv6(pins, sizes, log_packets)?;
        for name in [END_SESSIONS, EXPIRE_FRAGMENTS] {
            object::pin_program(&mut ipv6, pins, &name_of::<Addr6>(name))?;
        }
        self.ipv6 = Some(ipv6);
        Ok(())
    }

    /// Unloads the programs of IPv6.
    pub(super) fn drop_ipv6(&mut self) {
        self.ipv6 = None;
    }

    /// Adds the programs of IPv6. They share the maps that hold no addresses with those of IPv4, by
    /// the pins.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn load_ipv6(&mut self, pins: &Pins, sizes: &Sizes, log_packets: bool) -> Result<()> {
        self.ipv6 = Some(object::load_ipv6(pins, sizes, log_packets)?);
        Ok(())
    }

    /// The program of the XDP hook, loaded when it is first asked for.
    pub(super) fn xdp(&mut self) -> Result<&mut Xdp> {
        object::xdp_program(&mut self.ebpf, XDP_PROGRAM)
    }

    /// That of IPv6, if IPv6 is loaded.
    pub(super) fn xdp_ipv6(&mut self) -> Result<Option<&mut Xdp>> {
        let ipv6 = self.ipv6.as_mut();
        ipv6.map(|ipv6| object::xdp_program(ipv6, XDP_PROGRAM_6))
            .transpose()
    }

    /// Lets the program of the XDP hook call that of IPv6, if IPv6 is loaded, or no longer.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn join_xdp(&mut self, wants_ipv6: bool) -> Result<()> {
        let program = match self.xdp_ipv6()? {
            Some(program) if wants_ipv6 => Some(program.fd()?.try_clone()?),
            _ => None,
        };
        xdp::set_others(&mut self.ebpf, program.as_ref())
    }

    /// A program of control groups by its name, loaded into the kernel when it is first asked for.
    pub(super) fn local(&mut self, name: &str) -> Result<&mut CgroupSockAddr> {
        object::local_program(self.object_of(name), name)
    }

    /// Runs one packet through a program that need not be attached, with the tables as they are.
    ///
    /// `packet` starts with its link-layer header; `interface` is the one whose hook sees it and
    /// must exist, `ingress_interface` the one by which it came into the host, 0 if the host made
    /// it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the packet, as it does those shorter than an Ethernet header.
    pub fn test_run(
        &mut self,
        program: &str,
        packet: &[u8],
        interface: u32,
        ingress_interface: u32,
    ) -> Result<TestRunOutput> {
        let mut context = [0; SK_BUFF_LEN];
        context[SK_BUFF_INGRESS_IFINDEX..][..4].copy_from_slice(&ingress_interface.to_ne_bytes());
        context[SK_BUFF_IFINDEX..][..4].copy_from_slice(&interface.to_ne_bytes());
        // A refusal is a separate packet, which may be longer than the refused one.
        let mut output = vec![0; packet.len() + LONGEST_REFUSAL];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut output),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = self.program(program)?.test_run(options)?;
        let verdict = result.return_value.cast_signed();
        output.truncate(result.data_size_out as usize);
        Ok(TestRunOutput {
            verdict,
            packet: output,
        })
    }

    /// The same for the program of the XDP hook, at the loopback interface. The return code is 2 to
    /// pass and 4 to send (`XDP_PASS`, `XDP_REDIRECT`).
    ///
    /// # Errors
    ///
    /// When the kernel refuses the packet.
    pub fn test_run_xdp(&mut self, packet: &[u8]) -> Result<TestRunOutput> {
        let mut output = vec![0; packet.len()];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut output),
            ..TestRunOptions::default()
        };
        let result = self.xdp()?.test_run(options)?;
        let verdict = result.return_value.cast_signed();
        output.truncate(result.data_size_out as usize);
        Ok(TestRunOutput {
            verdict,
            packet: output,
        })
    }

    /// How many instructions the verifier processed to accept a program.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the program.
    pub fn verified_instructions(&mut self, program: &str) -> Result<u32> {
        let info = self.info(program)?;
        info.verified_instruction_count()
            .context("the kernel does not say")
    }

    /// How many instructions a program has, as the kernel runs it: with the lookups in arrays and
    /// the checks that the verifier has put in.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the program.
    pub fn instructions(&mut self, program: &str) -> Result<u32> {
        let bytes = self.info(program)?.size_translated();
        Ok(bytes.context("the kernel does not say")? / INSTRUCTION_BYTES)
    }

    /// The maps that a program may use.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the program, or does not say.
    pub fn maps(&mut self, program: &str) -> Result<Vec<MapInfo>> {
        let ids = self.info(program)?.map_ids()?;
        let ids = ids.context("the kernel does not say")?;
        let infos = ids.into_iter().map(MapInfo::from_id);
        infos.collect::<Result<_, _>>().context("ask for a map")
    }

    fn info(&mut self, program: &str) -> Result<ProgramInfo> {
        let info = if program == XDP_PROGRAM {
            self.xdp()?.info()
        } else if program == XDP_PROGRAM_6 {
            self.xdp_ipv6()?.context("IPv6 is not loaded")?.info()
        } else if [object::LOCAL_PROGRAMS, object::LOCAL_PROGRAMS_6]
            .concat()
            .contains(&program)
        {
            self.local(program)?.info()
        } else {
            self.program(program)?.info()
        };
        info.context("ask for a program")
    }

    /// Starts to write the programs' debug messages to the log, as long as the results live: one
    /// for each object, except those for which this was done before.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn loggers(&mut self) -> Result<Vec<Logger>> {
        let objects = std::iter::once(&mut self.ebpf).chain(&mut self.ipv6);
        objects
            .map(EbpfLogger::init)
            .filter(|logger| !matches!(logger, Err(aya_log::Error::MapNotFound)))
            .map(|logger| logger.context("open the programs' message buffer"))
            .collect()
    }
}

/// Writes the debug messages of an object to the log until it is dropped.
pub type Logger = EbpfLogger<&'static dyn log::Log>;
