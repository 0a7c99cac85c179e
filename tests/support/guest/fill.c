/* Fills clusters of disks with one byte each and returns when all of it is on the disks.
 *
 * usage: fill DEVICE FIRST COUNT BYTE [DEVICE FIRST COUNT BYTE ...]
 * A cluster has 64 KiB. Page cache and shell pipes cost an emulated processor a hundred times more.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLUSTER 65536L
#define AT_ONCE 16L

int main(int argc, char **argv) {
    char *buffer = aligned_alloc(4096, CLUSTER * AT_ONCE);
    if (!buffer || argc < 5 || argc % 4 != 1) return 2;
    for (int i = 1; i < argc; i += 4) {
        int disk = open(argv[i], O_WRONLY | O_DIRECT);
        if (disk < 0) return perror(argv[i]), 1;
        long first = atol(argv[i + 1]), count = atol(argv[i + 2]);
        memset(buffer, atoi(argv[i + 3]), CLUSTER * (count < AT_ONCE ? count : AT_ONCE));
        for (long done = 0; done < count; done += AT_ONCE) {
            long length = CLUSTER * (count - done < AT_ONCE ? count - done : AT_ONCE);
            if (pwrite(disk, buffer, length, (first + done) * CLUSTER) != length) return perror(argv[i]), 1;
        }
        if (fsync(disk) < 0) return perror(argv[i]), 1;
        close(disk);
    }
    return 0;
}
