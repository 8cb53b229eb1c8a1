// SPDX-License-Identifier: GPL-2.0
/* Ways to hang, by a word in debugfs: echo mutex > /sys/kernel/debug/hangs */
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/irq_work.h>
#include <linux/irqdesc.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/percpu-rwsem.h>
#include <linux/rtmutex.h>
#include <linux/rwsem.h>
#include <linux/semaphore.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/swait.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/umh.h>
#include <linux/wait.h>
#include <linux/wait_bit.h>
#include <asm/asm.h>
#include <asm/desc.h>

static struct dentry *file;

static struct device_state {
	unsigned long flags;
	struct mutex lock;
	struct task_struct *user;
	struct timer_list timer;
	struct hrtimer hrtimer;
	int references;
} device;

static DEFINE_MUTEX(lock_a);
static DEFINE_MUTEX(lock_b);
static DECLARE_RWSEM(rwsem);
static struct semaphore semaphore = __SEMAPHORE_INITIALIZER(semaphore, 1);
static DECLARE_COMPLETION(completion);
static DECLARE_WAIT_QUEUE_HEAD(queue);
static DEFINE_SPINLOCK(spinlock);
static DEFINE_RWLOCK(rwlock);
static DEFINE_RT_MUTEX(rt_lock);
static struct workqueue_struct *workqueue;
DEFINE_STATIC_PERCPU_RWSEM(percpu);
DEFINE_STATIC_SRCU(srcu);
static DECLARE_COMPLETION(ready);
static volatile int never;

static noinline int sleeper(void *how)
{
	device.user = current;
	switch ((long)how) {
	case 'm':
		mutex_lock(&device.lock);
		break;
	case 'w':
		down_write(&rwsem);
		break;
	case 'r':
		down_read(&rwsem);
		break;
	case 's':
		down(&semaphore);
		break;
	case 't':
		rt_mutex_lock(&rt_lock);
		break;
	case 'P':
		percpu_down_write(&percpu);
		break;
	case 'p':
		percpu_down_read(&percpu);
		break;
	case 'c':
		srcu_read_lock(&srcu);
		break;
	}
	complete(&ready);
	for (;;)
		schedule_timeout_idle(1000 * HZ); /* sleeper */
	return 0;
}

static noinline void hang_mutex(void)
{
	mutex_lock(&device.lock); /* mutex */
	mutex_unlock(&device.lock);
}

static noinline void hang_read(void)
{
	down_read(&rwsem); /* read */
	up_read(&rwsem);
}

static noinline void hang_write(void)
{
	down_write(&rwsem); /* write */
	up_write(&rwsem);
}

static noinline void hang_semaphore(void)
{
	down(&semaphore); /* semaphore */
	up(&semaphore);
}

static noinline void hang_allocated(void)
{
	struct mutex *lock = kmalloc(sizeof(*lock), GFP_KERNEL);

	mutex_init(lock);
	mutex_lock(lock);
	mutex_lock(lock); /* allocated */
	mutex_unlock(lock);
}

static noinline int ended(void *lock)
{
	mutex_lock(lock);
	complete(&ready);
	return 0;
}

static noinline void hang_ended(void)
{
	kthread_run(ended, &lock_a, "ended");
	wait_for_completion(&ready);
	mutex_lock(&lock_a); /* ended */
	mutex_unlock(&lock_a);
}

static noinline int writer(void *unused)
{
	complete(&ready);
	down_write(&rwsem); /* writer */
	up_write(&rwsem);
	return 0;
}

static noinline void hang_behind(void)
{
	kthread_run(writer, NULL, "writer");
	wait_for_completion(&ready);
	msleep(100); /* until it waits */
	down_read(&rwsem); /* behind */
	up_read(&rwsem);
}

static noinline void hang_upgrade(void)
{
	struct rw_semaphore *sem = kmalloc(sizeof(*sem), GFP_KERNEL);

	init_rwsem(sem);
	down_read(sem);
	down_write(sem); /* upgrade */
	up_write(sem);
}

static noinline int mixed(void *unused)
{
	mutex_lock(&lock_a);
	complete(&ready);
	down_write(&rwsem); /* mixed second */
	up_write(&rwsem);
	return 0;
}

static noinline void hang_mixed(void)
{
	kthread_run(mixed, NULL, "mixed");
	wait_for_completion(&ready);
	mutex_lock(&lock_a); /* mixed first */
	mutex_unlock(&lock_a);
}

static void write_mixed(void)
{
	down_write(&rwsem);
	hang_mixed();
}

static void read_mixed(void)
{
	down_read(&rwsem);
	hang_mixed();
}

static noinline void hang_completion(void)
{
	wait_for_completion(&completion); /* completion */
	barrier(); /* no tail call, which would leave no frame */
}

static noinline void hang_on_stack(void)
{
	DECLARE_COMPLETION_ONSTACK(done);

	wait_for_completion_interruptible(&done); /* on stack */
}

static noinline void hang_event(void)
{
	wait_event_interruptible(queue, never); /* event */
}

static noinline void hang_folio(void)
{
	struct page *page = alloc_page(GFP_KERNEL);

	lock_page(page);
	lock_page(page); /* folio */
	unlock_page(page);
}

static noinline int abba(void *unused)
{
	mutex_lock(&lock_b);
	complete(&ready);
	mutex_lock(&lock_a); /* second */
	mutex_unlock(&lock_a);
	return 0;
}

static noinline void hang_abba(void)
{
	mutex_lock(&lock_a);
	kthread_run(abba, NULL, "abba");
	wait_for_completion(&ready);
	mutex_lock(&lock_b); /* first */
	mutex_unlock(&lock_b);
}

static noinline int stuck_thread(void *unused)
{
	complete(&ready);
	wait_for_completion(&completion); /* thread */
	return 0;
}

static noinline void hang_kthread(void)
{
	struct task_struct *task = kthread_run(stuck_thread, NULL, "stuck");

	wait_for_completion(&ready);
	kthread_stop(task); /* stop */
	barrier();
}

static void stuck_work(struct work_struct *work)
{
	wait_for_completion(&completion); /* work */
	barrier();
}
static DECLARE_WORK(work, stuck_work);

static noinline void hang_work(void)
{
	schedule_work(&work);
	flush_work(&work); /* flush */
	barrier();
}

static noinline void hang_queue(void)
{
	workqueue = alloc_workqueue("hangs", 0, 0);
	queue_work(workqueue, &work);
	flush_workqueue(workqueue); /* queue */
	barrier();
}

static noinline void hang_rt_mutex(void)
{
	rt_mutex_lock(&rt_lock); /* rt_mutex */
	rt_mutex_unlock(&rt_lock);
}

/* Interrupts that nothing but the module raises. */

static int irq;

static irqreturn_t wake_thread(int number, void *unused)
{
	return IRQ_WAKE_THREAD;
}

static irqreturn_t irq_function(int number, void *unused)
{
	complete(&ready);
	mutex_lock(&lock_a); /* irq function */
	mutex_unlock(&lock_a);
	return IRQ_HANDLED;
}

static irqreturn_t own_irq(int number, void *unused)
{
	disable_irq(number); /* own irq */
	return IRQ_HANDLED;
}

static void raise_irq(irq_handler_t handler, irq_handler_t thread)
{
	irq = irq_alloc_desc(NUMA_NO_NODE);
	irq_set_chip_and_handler(irq, &dummy_irq_chip, handle_simple_irq);
	irq_clear_status_flags(irq, IRQ_NOREQUEST);
	WARN_ON(request_threaded_irq(irq, handler, thread, 0, "demo", &irq));
	mutex_lock(&lock_a);
	local_irq_disable();
	generic_handle_irq(irq);
	local_irq_enable();
	wait_for_completion(&ready);
	msleep(100); /* until the thread waits */
}

static noinline void hang_disable_irq(void)
{
	raise_irq(wake_thread, irq_function);
	disable_irq(irq); /* disable_irq */
	mutex_unlock(&lock_a);
}

static noinline void hang_free_irq(void)
{
	raise_irq(wake_thread, irq_function);
	free_irq(irq, &irq); /* free_irq */
	mutex_unlock(&lock_a);
}

static void hang_own_irq(void)
{
	raise_irq(own_irq, NULL);
}

/* A function of a timer that does not return, and one that waits for itself. */

static volatile int runs;

static noinline void stuck_timer(struct timer_list *timer)
{
	runs = 1;
	while (!never) cpu_relax(); /* timer function */
}

static noinline void hang_timer(void)
{
	timer_setup(&device.timer, stuck_timer, 0);
	device.timer.expires = jiffies;
	add_timer_on(&device.timer, !raw_smp_processor_id());
	while (!runs)
		cpu_relax();
	del_timer_sync(&device.timer); /* timer */
	barrier();
}

static noinline void locking_timer(struct timer_list *timer)
{
	runs = 1;
	spin_lock(&spinlock); /* locking timer */
	spin_unlock(&spinlock);
}

/* The timer's function waits for what is held by who waits for it. */
static noinline void hang_timer_lock(void)
{
	timer_setup(&device.timer, locking_timer, 0);
	device.timer.expires = jiffies;
	spin_lock(&spinlock);
	add_timer_on(&device.timer, !raw_smp_processor_id());
	while (!runs)
		cpu_relax();
	del_timer_sync(&device.timer); /* timer_lock */
	spin_unlock(&spinlock);
}

static noinline void own_timer(struct timer_list *timer)
{
	del_timer_sync(timer); /* own timer */
	barrier();
}

static void hang_own_timer(void)
{
	timer_setup(&device.timer, own_timer, 0);
	mod_timer(&device.timer, jiffies);
	msleep(100);
}

static noinline enum hrtimer_restart stuck_hrtimer(struct hrtimer *timer)
{
	runs = 1;
	while (!never) cpu_relax(); /* hrtimer function */
	return HRTIMER_NORESTART;
}

static void start_hrtimer(void *unused)
{
	hrtimer_start(&device.hrtimer, 0, HRTIMER_MODE_REL_PINNED_SOFT);
}

static enum hrtimer_restart always_due(struct hrtimer *timer)
{
	return HRTIMER_RESTART;
}

static noinline void hang_due(void)
{
	hrtimer_init(&device.hrtimer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED);
	device.hrtimer.function = always_due;
	hrtimer_start(&device.hrtimer, 0, HRTIMER_MODE_REL_PINNED);
	wait_for_completion(&completion);
	barrier();
}

static void again(struct tasklet_struct *tasklet)
{
	tasklet_schedule(tasklet);
}

static DECLARE_TASKLET(tasklet, again);

static noinline void hang_tasklet(void)
{
	tasklet_schedule(&tasklet);
	wait_for_completion(&completion);
	barrier();
}

/* One that is disabled, which tasklet_kill() waits for. */
static noinline void hang_tasklet_kill(void)
{
	tasklet_disable(&tasklet);
	tasklet_schedule(&tasklet);
	tasklet_kill(&tasklet);
	barrier();
}

static void queue_again(struct irq_work *work)
{
	irq_work_queue(work);
}

static DEFINE_IRQ_WORK(irq_work, queue_again);

static noinline void hang_irq_work(void)
{
	irq_work_queue(&irq_work);
	wait_for_completion(&completion);
	barrier();
}

static noinline void hang_hrtimer(void)
{
	hrtimer_init(&device.hrtimer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_SOFT);
	device.hrtimer.function = stuck_hrtimer;
	smp_call_function_single(!raw_smp_processor_id(), start_hrtimer, NULL, 1);
	while (!runs)
		cpu_relax();
	hrtimer_cancel(&device.hrtimer); /* hrtimer */
	barrier();
}

static noinline void hang_percpu_read(void)
{
	percpu_down_read(&percpu); /* percpu_read */
	percpu_up_read(&percpu);
}

static noinline void hang_percpu_write(void)
{
	percpu_down_write(&percpu); /* percpu_write */
	percpu_up_write(&percpu);
}

static int percpu_writer(void *unused)
{
	complete(&ready);
	hang_percpu_write();
	return 0;
}

static void percpu_behind(void)
{
	kthread_run(percpu_writer, NULL, "writer");
	wait_for_completion(&ready);
	msleep(100); /* until it waits */
	hang_percpu_read();
}

static noinline void hang_srcu(void)
{
	synchronize_srcu(&srcu); /* srcu */
	barrier();
}

static int spin_thread(void *unused)
{
	complete(&ready);
	while (!never) cpu_relax(); /* spin thread */
	return 0;
}

/* A CPU that reports no quiescent state. */
static void spin_elsewhere(void)
{
	struct task_struct *task = kthread_create(spin_thread, NULL, "spin");

	kthread_bind(task, !raw_smp_processor_id());
	wake_up_process(task);
	wait_for_completion(&ready);
}

static noinline void hang_rcu(void)
{
	spin_elsewhere();
	synchronize_rcu(); /* rcu */
	barrier();
}

static void rcu_callback(struct rcu_head *head)
{
}

static noinline void hang_rcu_barrier(void)
{
	static struct rcu_head head;

	spin_elsewhere();
	call_rcu(&head, rcu_callback);
	rcu_barrier(); /* rcu_barrier */
	barrier();
}

static void later_work(struct work_struct *work)
{
}
static DECLARE_WORK(later, later_work);

static noinline void hang_queued(void)
{
	workqueue = alloc_ordered_workqueue("ordered", 0);
	queue_work(workqueue, &work);
	queue_work(workqueue, &later);
	flush_work(&later); /* queued */
	barrier();
}

static void other_work(struct work_struct *work)
{
	wait_for_completion(&completion);
	barrier();
}
static DECLARE_WORK(other, other_work);

/* Two at a time run, of which either may let the third begin. */
static noinline void hang_full(void)
{
	workqueue = alloc_workqueue("full", 0, 2);
	queue_work(workqueue, &work);
	queue_work(workqueue, &other);
	queue_work(workqueue, &later);
	flush_work(&later); /* full */
	barrier();
}

/* A flush of works that run, and of none that comes later. */
static noinline void hang_drain(void)
{
	workqueue = alloc_workqueue("drain", 0, 0);
	queue_work(workqueue, &work);
	queue_work(workqueue, &other);
	flush_workqueue(workqueue); /* drain */
	barrier();
}

static int late(void *unused)
{
	msleep(100); /* until it is flushed */
	queue_work(workqueue, &other);
	return 0;
}

static noinline void hang_late(void)
{
	workqueue = alloc_workqueue("late", 0, 0);
	queue_work(workqueue, &work);
	kthread_run(late, NULL, "late");
	flush_workqueue(workqueue); /* late */
	barrier();
}

static noinline void hang_cancel(void)
{
	schedule_work(&work);
	msleep(100); /* until it runs */
	cancel_work_sync(&work); /* cancel */
	barrier();
}

static void locking_work(struct work_struct *work)
{
	mutex_lock(&lock_a); /* locking work */
	mutex_unlock(&lock_a);
}
static DECLARE_WORK(locking, locking_work);

static noinline void hang_locked(void)
{
	mutex_lock(&lock_a);
	schedule_work(&locking);
	flush_work(&locking); /* locked */
	mutex_unlock(&lock_a);
}

static noinline void hang_bit(void)
{
	set_bit(3, &device.flags);
	wait_on_bit(&device.flags, 3, TASK_UNINTERRUPTIBLE); /* bit */
	barrier();
}

static noinline void hang_var(void)
{
	wait_var_event(&device.references, never); /* var */
}

static DECLARE_SWAIT_QUEUE_HEAD(simple);

static noinline void hang_simple(void)
{
	swait_event_exclusive(simple, never); /* simple */
}

static noinline void hang_park(void)
{
	struct task_struct *task = kthread_run(stuck_thread, NULL, "stuck");

	wait_for_completion(&ready);
	kthread_park(task); /* park */
	barrier();
}

static void stuck_kthread_work(struct kthread_work *work)
{
	wait_for_completion(&completion); /* kthread work */
	runs = 1; /* not the same as stuck_work() */
}
static DEFINE_KTHREAD_WORK(kthread_work, stuck_kthread_work);

static noinline void hang_kthread_work(void)
{
	struct kthread_worker *worker = kthread_create_worker(0, "works");

	kthread_queue_work(worker, &kthread_work);
	msleep(100); /* until it runs */
	kthread_cancel_work_sync(&kthread_work); /* cancel kthread work */
	barrier();
}

/* Its own file. */
static noinline void hang_remove(void)
{
	debugfs_remove(file); /* remove */
	barrier();
}

static noinline void hang_helper(void)
{
	char *argv[] = { "/bin/sleep", "1000", NULL };

	call_usermodehelper(argv[0], argv, NULL, UMH_WAIT_PROC); /* helper */
	barrier();
}

static noinline void hang_usleep(void)
{
	usleep_range(1000000000, 1000000000); /* usleep */
	barrier();
}

static noinline void hang_wake_up(void)
{
	msleep(10);
	set_current_state(TASK_UNINTERRUPTIBLE);
	schedule_timeout(MAX_SCHEDULE_TIMEOUT); /* wake_up */
	barrier();
}

/* These can be ended by a signal. */

static noinline int hang_interruptible(void)
{
	int error = mutex_lock_interruptible(&device.lock); /* interruptible */

	return error ?: never;
}

static noinline int hang_wanted(void)
{
	int error = mutex_lock_interruptible(&lock_a); /* wanted */

	return error ?: never;
}

static noinline int hang_held(void)
{
	mutex_lock(&lock_a);
	complete(&ready);
	return wait_event_interruptible(queue, never); /* held */
}

static noinline int opposite(void *unused)
{
	int error;

	mutex_lock(&lock_b);
	complete(&ready);
	error = mutex_lock_interruptible(&lock_a); /* other order */
	return error ?: never;
}

static noinline int hang_opposite(void)
{
	int error;

	mutex_lock(&lock_a);
	kthread_run(opposite, NULL, "opposite");
	wait_for_completion(&ready);
	error = mutex_lock_interruptible(&lock_b); /* one order */
	return error ?: never;
}

static void wanted(void) { never = hang_wanted(); }
static void interruptible(void) { never = hang_interruptible(); }
static void held(void) { never = hang_held(); }
static void in_opposite_order(void) { never = hang_opposite(); }

/* A thread that waits for work as no thread should, and hangs not. */
static void idle_thread(void)
{
	kthread_run(stuck_thread, NULL, "idle");
	wait_for_completion(&ready);
}

static noinline void hang_spin(void)
{
	while (!never) cpu_relax(); /* spin */
}

static noinline void hang_deaf(void)
{
	local_irq_disable();
	while (!never) cpu_relax(); /* deaf */
	local_irq_enable();
}

static void spin_here(void *unused)
{
	while (!never) cpu_relax(); /* everywhere */
}

static noinline void hang_all(void)
{
	on_each_cpu(spin_here, NULL, 1);
}

static noinline void hang_spinlock(void)
{
	spin_lock_irq(&spinlock);
	spin_lock(&spinlock); /* spinlock */
	barrier();
}

static noinline void hang_rwlock(void)
{
	write_lock_irq(&rwlock);
	read_lock(&rwlock); /* rwlock */
	barrier();
}

static noinline void hang_exception(void)
{
	/* The fixup of the fault is the instruction that faults. */
	asm volatile("1: movl $1, (%0)\n" _ASM_EXTABLE(1b, 1b) :: "r"(-4096L) : "memory"); /* fault */
}

static noinline void hang_deaf_exception(void)
{
	local_irq_disable();
	hang_exception(); /* deaf fault */
	local_irq_enable();
}

static noinline void hang_hlt(void)
{
	asm volatile("cli; 1: hlt; jmp 1b" ::: "memory"); /* hlt */
}

static noinline void hang_triple(void)
{
	struct desc_ptr none = {};

	load_idt(&none);
	asm volatile("ud2"); /* triple */
}

static noinline void hang_preempt(void)
{
	preempt_disable();
	while (!never) cpu_relax(); /* preempt */
}

static noinline void fail_null(void)
{
	struct device_state *none = READ_ONCE(file) ? NULL : &device;

	WRITE_ONCE(none->lock.owner.counter, 1); /* null */
}

static noinline int fail_overflow(int depth)
{
	volatile char room[512];

	room[depth % sizeof(room)] = depth;
	return never ? 0 : fail_overflow(depth + 1) + room[0];
}

static void overflow(void)
{
	never = fail_overflow(0);
}

static noinline void fail_invalid(void)
{
	asm volatile("ud2"); /* invalid */
}

static noinline void fail_stack(void)
{
	asm volatile("mov %0, %%rsp; push %%rax" :: "r"(4096L) : "memory"); /* stack */
}

static void bug_work(struct work_struct *work)
{
	BUG(); /* bug work */
}
static DECLARE_WORK(bug, bug_work);

static void fail_work(void)
{
	schedule_work(&bug);
	flush_work(&bug);
}

static const struct {
	const char *word;
	void (*hang)(void);
	char sleeper;
} ways[] = {
	{ "mutex", hang_mutex, 'm' },
	{ "read", hang_read, 'w' },
	{ "write", hang_write, 'r' },
	{ "behind", hang_behind, 'r' },
	{ "upgrade", hang_upgrade },
	{ "write_mixed", write_mixed },
	{ "read_mixed", read_mixed },
	{ "semaphore", hang_semaphore, 's' },
	{ "allocated", hang_allocated },
	{ "ended", hang_ended },
	{ "completion", hang_completion },
	{ "on_stack", hang_on_stack },
	{ "event", hang_event },
	{ "folio", hang_folio },
	{ "abba", hang_abba },
	{ "kthread", hang_kthread },
	{ "work", hang_work },
	{ "queue", hang_queue },
	{ "rt_mutex", hang_rt_mutex, 't' },
	{ "disable_irq", hang_disable_irq },
	{ "free_irq", hang_free_irq },
	{ "own_irq", hang_own_irq },
	{ "timer", hang_timer },
	{ "timer_lock", hang_timer_lock },
	{ "own_timer", hang_own_timer },
	{ "hrtimer", hang_hrtimer },
	{ "due", hang_due },
	{ "tasklet", hang_tasklet },
	{ "tasklet_kill", hang_tasklet_kill },
	{ "irq_work", hang_irq_work },
	{ "percpu_read", hang_percpu_read, 'P' },
	{ "percpu_write", hang_percpu_write, 'p' },
	{ "percpu_behind", percpu_behind, 'p' },
	{ "srcu", hang_srcu, 'c' },
	{ "rcu", hang_rcu },
	{ "rcu_barrier", hang_rcu_barrier },
	{ "queued", hang_queued },
	{ "full", hang_full },
	{ "drain", hang_drain },
	{ "late", hang_late },
	{ "cancel", hang_cancel },
	{ "locked", hang_locked },
	{ "bit", hang_bit },
	{ "var", hang_var },
	{ "simple", hang_simple },
	{ "park", hang_park },
	{ "kthread_work", hang_kthread_work },
	{ "remove", hang_remove },
	{ "helper", hang_helper },
	{ "usleep", hang_usleep },
	{ "wake_up", hang_wake_up },
	{ "interruptible", interruptible, 'm' },
	{ "wanted", wanted },
	{ "held", held },
	{ "opposite", in_opposite_order },
	{ "idle_thread", idle_thread },
	{ "spin", hang_spin },
	{ "deaf", hang_deaf },
	{ "all", hang_all },
	{ "spinlock", hang_spinlock },
	{ "rwlock", hang_rwlock },
	{ "exception", hang_exception },
	{ "deaf_exception", hang_deaf_exception },
	{ "hlt", hang_hlt },
	{ "triple", hang_triple },
	{ "preempt", hang_preempt },
	{ "null", fail_null },
	{ "overflow", overflow },
	{ "invalid", fail_invalid },
	{ "stack", fail_stack },
	{ "bug_work", fail_work },
};

static ssize_t hangs_write(struct file *f, const char __user *buf, size_t size, loff_t *pos)
{
	char word[24] = {};
	int i;

	if (size >= sizeof(word) || copy_from_user(word, buf, size))
		return -EINVAL;
	strim(word);
	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		if (strcmp(word, ways[i].word))
			continue;
		if (ways[i].sleeper) {
			kthread_run(sleeper, (void *)(long)ways[i].sleeper, "sleeper");
			wait_for_completion(&ready);
		}
		ways[i].hang();
		return size;
	}
	return -EINVAL;
}

static const struct file_operations operations = { .owner = THIS_MODULE, .write = hangs_write };

static int __init hangs_init(void)
{
	mutex_init(&device.lock);
	file = debugfs_create_file("hangs", 0200, NULL, NULL, &operations);
	return 0;
}

static void __exit hangs_exit(void)
{
	debugfs_remove(file);
}

module_init(hangs_init);
module_exit(hangs_exit);
MODULE_DESCRIPTION("Ways to hang");
MODULE_LICENSE("GPL");
