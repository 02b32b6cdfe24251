//! A virtual machine with one processor, two pages of memory, and a guest of a few instructions.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use reveille::EventFd;

/// The port that the guest rings at, before anything else.
pub(crate) const DOORBELL: u8 = 0xe0;
/// The port that it rings at for each interrupt.
pub(crate) const ANSWER: u8 = 0xe1;
/// The port that has no eventfd: to write there is to leave to user space.
const END: u8 = 0xe2;

/// The interrupt controller's line that the interrupts come in by, and what the guest has it make of line 0.
const LINE: u8 = 5;
const FIRST_VECTOR: u8 = 0x20;

/// Where in the guest's memory the instructions lie; the stack ends where they begin.
const CODE: u16 = 0x1000;
const HANDLER: u16 = 0x1100;

#[repr(C, align(4096))]
struct Memory([u8; 0x2000]);

impl Memory {
    /// What the guest finds when it begins, in real mode and with its interrupts off.
    fn of_guest(rings: u16, interrupts: u16) -> Memory {
        let [rings_low, rings_high] = rings.to_le_bytes();
        let [interrupts_low, interrupts_high] = interrupts.to_le_bytes();
        #[rustfmt::skip]
        let code = [
            0xb0, 0x11,                           //       mov al, 0x11     ; to the interrupt controller:
            0xe6, 0x20,                           //       out 0x20, al     ;   three words will follow
            0xb0, FIRST_VECTOR,                   //       mov al, 0x20
            0xe6, 0x21,                           //       out 0x21, al     ;   line 0 is interrupt 0x20, and so on
            0xb0, 0x04,                           //       mov al, 4
            0xe6, 0x21,                           //       out 0x21, al     ;   the other controller is at line 2
            0xb0, 0x03,                           //       mov al, 3
            0xe6, 0x21,                           //       out 0x21, al     ;   an interrupt is over once it is taken
            0xb0, !(1 << LINE),                   //       mov al, 0xdf
            0xe6, 0x21,                           //       out 0x21, al     ;   of the lines let in only 5
            0xb9, rings_low, rings_high,          //       mov cx, rings
            0xe6, DOORBELL,                       // ring: out 0xe0, al
            0xe2, 0xfc,                           //       loop ring
            0xb9, interrupts_low, interrupts_high, //      mov cx, interrupts
            0xfa,                                 // wait: cli              ; none between the look at cx and the sleep
            0xe3, 0x04,                           //       jcxz done
            0xfb,                                 //       sti              ; takes effect after the next instruction
            0xf4,                                 //       hlt
            0xeb, 0xf9,                           //       jmp wait
            0xe6, END,                            // done: out 0xe2, al
        ];
        let handler = [
            0x49, //         dec cx
            0xe6, ANSWER, // out 0xe1, al
            0xcf,   //         iret
        ];
        let mut memory = Memory([0; 0x2000]);
        let mut put =
            |at: u16, bytes: &[u8]| memory.0[usize::from(at)..][..bytes.len()].copy_from_slice(bytes);
        put(CODE, &code);
        put(HANDLER, &handler);
        // In real mode the table of interrupts begins at 0. Each entry is an offset and a segment, and all segments are 0 here.
        put(4 * u16::from(FIRST_VECTOR + LINE), &HANDLER.to_le_bytes());
        memory
    }
}

/// The machine. To be [run](Machine::run) on a thread of its own, which is its processor for as long as the guest lasts.
pub(crate) struct Machine {
    vm: VmFd,
    processor: VcpuFd,
    exits: Arc<AtomicU64>,
}

impl Machine {
    /// With a guest that rings the doorbell so often, answers so many interrupts, and ends.
    pub(crate) fn new(kvm: &Kvm, rings: u16, interrupts: u16) -> io::Result<Machine> {
        let vm = kvm.create_vm()?;
        // Processors of Intel's that cannot do without paging need three pages for real mode, where the guest has no memory.
        vm.set_tss_address(0xfffb_d000)?;
        // The kernel's own interrupt controllers: an irqfd leads there, and with them a guest that halts sleeps in the kernel.
        vm.create_irq_chip()?;

        // Two pages that are never given back, so that no machine can outlive its memory.
        let memory = Box::leak(Box::new(Memory::of_guest(rings, interrupts)));
        let region = kvm_userspace_memory_region {
            memory_size: size_of::<Memory>() as u64,
            userspace_addr: memory.0.as_mut_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: what the guest writes it writes into these pages. They are there for ever, and from here on nothing else in this
        // program refers to them.
        #[allow(unsafe_code, reason = "the guest's memory is the program's")]
        unsafe {
            vm.set_user_memory_region(region)?;
        }

        let processor = vm.create_vcpu(0)?;
        let mut segments = processor.get_sregs()?;
        (segments.cs.base, segments.cs.selector) = (0, 0);
        processor.set_sregs(&segments)?;
        let mut registers = processor.get_regs()?;
        (registers.rip, registers.rsp) = (CODE.into(), CODE.into());
        processor.set_regs(&registers)?;
        Ok(Machine { vm, processor, exits: Arc::default() })
    }

    /// Has the kernel add 1 to `bell` for each write to `port`, while the guest goes on (KVM_IOEVENTFD).
    pub(crate) fn ring_on_write(&self, port: u8, bell: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_ioevent(&lent(bell)?, &IoEventAddress::Pio(port.into()), NoDatamatch)?)
    }

    /// Has the kernel interrupt the guest when `bell` is signalled (KVM_IRQFD). It also takes what the counter holds.
    pub(crate) fn interrupt_on_ring(&self, bell: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_irqfd(&lent(bell)?, LINE.into())?)
    }

    /// How often the guest has left to user space, as it comes to be known.
    pub(crate) fn exits(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.exits)
    }

    /// Lends this thread to the guest until its end.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            let exit = match self.processor.run().map_err(io::Error::from) {
                // A signal to this thread, and nothing of the guest's.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            self.exits.fetch_add(1, Relaxed);
            match exit {
                VcpuExit::IoOut(port, _) if port == u16::from(END) => return Ok(()),
                other => {
                    return Err(io::Error::other(format!("what the guest wants is not known: {other:?}")));
                }
            }
        }
    }
}

/// Another descriptor of the same counter, as the type that the calls want. The kernel keeps the counter, so the descriptor is only
/// needed for the call.
fn lent<T: FromRawFd>(eventfd: &EventFd) -> io::Result<T> {
    let descriptor = OwnedFd::from(eventfd.try_clone()?).into_raw_fd();
    // SAFETY: it is open, and it has just been given up by the only one that owned it.
    #[allow(unsafe_code, reason = "the one type of eventfd knows nothing of the other")]
    Ok(unsafe { T::from_raw_fd(descriptor) })
}
