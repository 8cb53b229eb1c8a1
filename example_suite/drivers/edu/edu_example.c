// SPDX-License-Identifier: MIT
/*
 * A driver for QEMU's educational PCI device (QEMU, docs/specs/edu.txt): registers, an interrupt,
 * DMA. In sysfs, in the device's directory:
 *
 *   factorial   write a number; read its factorial, which the device computes
 *   mirror      write a text, which goes to the device and back by DMA; read what came back
 */
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>

#ifndef PCI_IRQ_INTX /* the name since 6.8; before, PCI_IRQ_LEGACY */
#define PCI_IRQ_INTX PCI_IRQ_LEGACY
#endif

#define EDU_ID			0x00
#define EDU_ID_MASK		0xffff
#define EDU_ID_VALUE		0x00ed
#define EDU_LIVENESS		0x04
#define EDU_FACTORIAL		0x08
#define EDU_STATUS		0x20
#define EDU_STATUS_IRQ		0x80
#define EDU_IRQ_STATUS		0x24
#define EDU_IRQ_ACK		0x64
#define EDU_DMA_SOURCE		0x80
#define EDU_DMA_TARGET		0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_COMMAND		0x98
#define EDU_DMA_START		0x01
#define EDU_DMA_FROM_DEVICE	0x02
#define EDU_DMA_IRQ		0x04
#define EDU_BUFFER		0x40000
#define EDU_BUFFER_SIZE		4096
#define EDU_DMA_BITS		28

static bool msi = true;
module_param(msi, bool, 0444);
MODULE_PARM_DESC(msi, "use message signalled interrupts instead of the pin");

struct edu {
	struct pci_dev *pci;
	void __iomem *registers;
	char *buffer;
	dma_addr_t bus;
	size_t length;
	u32 result;
	unsigned int interrupts;
	struct completion done;
	struct mutex lock; /* serialises use of the device */
};

static irqreturn_t edu_interrupt(int irq, void *data)
{
	struct edu *edu = data;
	u32 status = readl(edu->registers + EDU_IRQ_STATUS);

	if (!status)
		return IRQ_NONE; /* the pin is shared */
	writel(status, edu->registers + EDU_IRQ_ACK);
	edu->interrupts++;
	complete(&edu->done);
	return IRQ_HANDLED;
}

static int edu_wait(struct edu *edu)
{
	return wait_for_completion_timeout(&edu->done, 10 * HZ) ? 0 : -ETIMEDOUT;
}

static noinline int edu_transfer(struct edu *edu, u64 source, u64 target, u32 command)
{
	reinit_completion(&edu->done);
	writeq(source, edu->registers + EDU_DMA_SOURCE);
	writeq(target, edu->registers + EDU_DMA_TARGET);
	writeq(edu->length, edu->registers + EDU_DMA_COUNT);
	writeq(command | EDU_DMA_START | EDU_DMA_IRQ, edu->registers + EDU_DMA_COMMAND);
	return edu_wait(edu);
}

static ssize_t factorial_store(struct device *dev, struct device_attribute *attr,
			       const char *text, size_t length)
{
	struct edu *edu = dev_get_drvdata(dev);
	u32 number;
	int error = kstrtou32(text, 0, &number);

	if (error)
		return error;
	mutex_lock(&edu->lock);
	reinit_completion(&edu->done);
	writel(EDU_STATUS_IRQ, edu->registers + EDU_STATUS);
	writel(number, edu->registers + EDU_FACTORIAL);
	error = edu_wait(edu);
	edu->result = readl(edu->registers + EDU_FACTORIAL);
	mutex_unlock(&edu->lock);
	return error ? error : length;
}

static ssize_t factorial_show(struct device *dev, struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "%u\n", edu->result);
}
static DEVICE_ATTR_RW(factorial);

static ssize_t mirror_store(struct device *dev, struct device_attribute *attr,
			    const char *text, size_t length)
{
	struct edu *edu = dev_get_drvdata(dev);
	int error;

	if (length > EDU_BUFFER_SIZE)
		return -EFBIG;
	mutex_lock(&edu->lock);
	edu->length = length;
	memcpy(edu->buffer, text, length);
	error = edu_transfer(edu, edu->bus, EDU_BUFFER, 0);
	memset(edu->buffer, 0, EDU_BUFFER_SIZE);
	if (!error)
		error = edu_transfer(edu, EDU_BUFFER, edu->bus, EDU_DMA_FROM_DEVICE);
	mutex_unlock(&edu->lock);
	return error ? error : length;
}

static ssize_t mirror_show(struct device *dev, struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	memcpy(text, edu->buffer, edu->length);
	return edu->length;
}
static DEVICE_ATTR_RW(mirror);

static struct attribute *edu_attrs[] = {
	&dev_attr_factorial.attr,
	&dev_attr_mirror.attr,
	NULL
};
ATTRIBUTE_GROUPS(edu);

static int edu_probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct edu *edu;
	int error;

	edu = devm_kzalloc(&pci->dev, sizeof(*edu), GFP_KERNEL);
	if (!edu)
		return -ENOMEM;
	edu->pci = pci;
	init_completion(&edu->done);
	mutex_init(&edu->lock);
	error = pcim_enable_device(pci);
	if (error)
		return error;
	error = pcim_iomap_regions(pci, BIT(0), "edu_example");
	if (error)
		return error;
	edu->registers = pcim_iomap_table(pci)[0];
	if ((readl(edu->registers + EDU_ID) & EDU_ID_MASK) != EDU_ID_VALUE)
		return dev_err_probe(&pci->dev, -ENODEV, "not an edu device\n");
	writel(0x12345678, edu->registers + EDU_LIVENESS);
	if (readl(edu->registers + EDU_LIVENESS) != ~0x12345678)
		return dev_err_probe(&pci->dev, -EIO, "the device is dead\n");
	error = dma_set_mask_and_coherent(&pci->dev, DMA_BIT_MASK(EDU_DMA_BITS));
	if (error)
		return error;
	edu->buffer = dmam_alloc_coherent(&pci->dev, EDU_BUFFER_SIZE, &edu->bus, GFP_KERNEL);
	if (!edu->buffer)
		return -ENOMEM;
	pci_set_master(pci);
	error = pci_alloc_irq_vectors(pci, 1, 1, msi ? PCI_IRQ_MSI : PCI_IRQ_INTX);
	if (error < 0)
		return error;
	error = request_irq(pci_irq_vector(pci, 0), edu_interrupt, IRQF_SHARED, "edu_example", edu);
	if (error) {
		pci_free_irq_vectors(pci);
		return error;
	}
	pci_set_drvdata(pci, edu);
	return 0;
}

static void edu_remove(struct pci_dev *pci)
{
	free_irq(pci_irq_vector(pci, 0), pci_get_drvdata(pci));
	pci_free_irq_vectors(pci);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{ }
};
MODULE_DEVICE_TABLE(pci, edu_ids);

static struct pci_driver edu_driver = {
	.name = "edu_example",
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
	.dev_groups = edu_groups,
};
module_pci_driver(edu_driver);

MODULE_DESCRIPTION("Driver for QEMU's educational PCI device");
MODULE_LICENSE("Dual MIT/GPL");
