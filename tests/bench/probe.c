/* Measures a disk from inside the guest. Writes and reads go past the guest's page cache.
 *
 * probe latency FILE STOP      random 4 KiB writes, each durable (O_DIRECT, O_DSYNC), until the file STOP exists;
 *                              prints count, median, 99th percentile and maximum in ms
 * probe read|write FILE MS KIB random|sequential
 *                              for MS milliseconds in blocks of KIB KiB; prints MiB a second
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST 200000
static double found[MOST];

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000.0 + t.tv_nsec / 1e6;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int open_file(const char *path, int flags, off_t *size) {
    struct stat about;
    int file = open(path, flags | O_DIRECT);
    if (file < 0 || fstat(file, &about) < 0) {
        perror(path);
        exit(1);
    }
    *size = about.st_size;
    return file;
}

static int latency(const char *path, const char *stop, char *block) {
    off_t size;
    int file = open_file(path, O_RDWR | O_DSYNC, &size), count = 0;
    while (count < MOST && access(stop, F_OK) < 0) {
        off_t place = (off_t)(rand() % (size / 4096)) * 4096;
        double began = now_ms();
        if (pwrite(file, block, 4096, place) != 4096) return 1;
        found[count++] = now_ms() - began;
    }
    if (count == 0) return 1;
    qsort(found, count, sizeof found[0], by_size);
    printf("%d %.3f %.3f %.3f\n", count, found[count / 2], found[(int)(count * 0.99)], found[count - 1]);
    return 0;
}

static int throughput(char **words, char *block) {
    off_t size, place = 0;
    int writes = strcmp(words[1], "write") == 0, at_random = strcmp(words[5], "random") == 0;
    int file = open_file(words[2], O_RDWR, &size);
    long step = atol(words[4]) * 1024, blocks = size / step, done = 0;
    double began = now_ms(), end = began + atof(words[3]), at;
    while ((at = now_ms()) < end) {
        place = at_random ? rand() % blocks : (place + 1) % blocks;
        ssize_t moved = writes ? pwrite(file, block, step, place * step) : pread(file, block, step, place * step);
        if (moved != step) return 1;
        done++;
    }
    printf("%.3f\n", done * (double)step / (1 << 20) / ((at - began) / 1000));
    return 0;
}

int main(int argc, char **argv) {
    char *block;
    if (posix_memalign((void **)&block, 4096, 1 << 20)) return 1;
    memset(block, 'p', 1 << 20);
    if (argc == 4 && strcmp(argv[1], "latency") == 0) return latency(argv[2], argv[3], block);
    if (argc == 6) return throughput(argv, block);
    return 2;
}
