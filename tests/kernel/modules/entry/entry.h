/* SPDX-License-Identifier: GPL-2.0 */
long other_step(int n);
long fpu_step(void);

/* Each file that includes this has a copy of it. */
static noinline __attribute__((noipa, used)) int copied(int n)
{
	return 2 * n;
}
